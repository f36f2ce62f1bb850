"""Sizes of PET that the benchmarks take."""

# d_pet, layers, cutoff, adaptive neighbours: published sizes, metatrain's default, and
# one to try a script with
SHAPES = {
    "default": {},
    "tiny": {
        "cutoff": 4.0,
        "d_pet": 8,
        "d_node": 16,
        "d_head": 8,
        "d_feedforward": 8,
        "num_heads": 2,
        "num_gnn_layers": 2,
        "num_attention_layers": 1,
    },
    "XS": {
        "cutoff": 7.5,
        "num_neighbors_adaptive": 8,
        "d_pet": 128,
        "d_node": 512,
        "d_head": 128,
        "d_feedforward": 256,
        "num_gnn_layers": 2,
        "num_attention_layers": 1,
    },
    "S": {
        "cutoff": 8.0,
        "num_neighbors_adaptive": 16,
        "d_pet": 256,
        "d_node": 1024,
        "d_head": 256,
        "d_feedforward": 512,
        "num_gnn_layers": 3,
        "num_attention_layers": 1,
    },
}
