"""Embeddings of which only the rows of new elements train."""

import torch
from support.models import EVERY_LINEAR, build_model
from support.structures import build_batch, build_structures

from pet_calc.config import TrainOptions
from pet_calc.lora.freeze import freeze_for_lora, trainable_table
from pet_calc.lora.inject import inject_lora
from pet_calc.lora.rows import train_element_rows
from pet_calc.model.derivatives import predict
from pet_calc.model.elements import add_elements, is_embedding
from pet_calc.train.optim import WeightAverage, build_optimizer, set_learning_rate

GE = 32


def build_tuned():
    model = build_model()
    add_elements(model, {GE: [14]})
    inject_lora(model, EVERY_LINEAR)
    freeze_for_lora(model, head_mode="freeze")
    train_element_rows(model, [GE])
    return model


def test_the_table_counts_the_rows_that_train():
    rows = {row.group: row for row in trainable_table(build_tuned())}
    # d_pet 8, d_node 16; one neighbour embedding beyond the first layer
    assert rows["edge_embedder"].n_trainable == 8
    assert rows["edge_embedder"].n_parameters == 6 * 8
    assert rows["node_embedders"].n_trainable == 16
    assert rows["gnn_layers"].n_trainable == 8


def test_steps_decay_and_averages_leave_the_known_rows_alone():
    model = build_tuned()
    structures = build_structures()
    structures[1].numbers[:4] = GE
    batch = build_batch(structures, model)
    embeddings = {name: p for name, p in model.named_parameters() if is_embedding(name)}
    before = {name: p.detach().clone() for name, p in embeddings.items()}
    optimizer = build_optimizer(model, TrainOptions(weight_decay=0.1))
    average = WeightAverage(model, 0.9)
    for _ in range(3):
        optimizer.zero_grad()
        set_learning_rate(optimizer, 0.01)
        predict(model, batch, is_training=True).energy.square().sum().backward()
        optimizer.step()
        average.update()
    for is_swapped in (False, True):
        if is_swapped:
            average.swap()
        for name, parameter in embeddings.items():
            assert torch.equal(parameter[:-1], before[name][:-1]), name
            assert not torch.equal(parameter[-1], before[name][-1]), name
