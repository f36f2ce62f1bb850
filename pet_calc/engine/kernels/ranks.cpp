// Several ranks in one process, each a thread, for tests of the exchange. Compiled only when
// they ask for it.

#include "engine.h"

#include <torch/library.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

namespace pet_calc::engine {

namespace {

using Many = std::vector<Tensor>;

// Many on their way between threads.
class Office {
  public:
    void post(int64_t from, int64_t to, std::vector<char> message) {
        std::lock_guard<std::mutex> lock(mutex_);
        messages_[{from, to}].push_back(std::move(message));
        arrived_.notify_all();
    }

    std::vector<char> fetch(int64_t from, int64_t to) {
        std::unique_lock<std::mutex> lock(mutex_);
        auto &waiting = messages_[{from, to}];
        arrived_.wait(lock, [&] { return is_closed_ || !waiting.empty(); });
        TORCH_CHECK(!waiting.empty(), "another rank failed");
        std::vector<char> message = std::move(waiting.front());
        waiting.pop_front();
        return message;
    }

    // nobody waits any more
    void close() {
        std::lock_guard<std::mutex> lock(mutex_);
        is_closed_ = true;
        arrived_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::map<std::pair<int64_t, int64_t>, std::deque<std::vector<char>>> messages_;
    bool is_closed_ = false;
};

class ThreadExchange : public Exchange {
  public:
    ThreadExchange(Office &office, int64_t rank, std::vector<int64_t> neighbors)
        : office_(office), rank_(rank), neighbors_(std::move(neighbors)) {}

    void start(const std::vector<int64_t> &starts, int64_t row_bytes) override {
        starts_ = starts;
        row_bytes_ = row_bytes;
        for (size_t r = 0; r < neighbors_.size(); r++)
            office_.post(
                rank_, neighbors_[r],
                {sent.begin() + starts[r] * row_bytes, sent.begin() + starts[r + 1] * row_bytes});
    }

    void finish() override {
        for (size_t r = 0; r < neighbors_.size(); r++) {
            const std::vector<char> message = office_.fetch(neighbors_[r], rank_);
            const int64_t expected = (starts_[r + 1] - starts_[r]) * row_bytes_;
            TORCH_CHECK(int64_t(message.size()) == expected, "expected ", expected, " bytes, got ",
                        message.size(), ": ", describe(r));
            std::copy(message.begin(), message.end(), received.begin() + starts_[r] * row_bytes_);
        }
    }

    std::string describe(size_t neighbor) const override {
        return "ranks " + std::to_string(rank_) + " and " + std::to_string(neighbors_[neighbor]);
    }

  private:
    Office &office_;
    const int64_t rank_;
    const std::vector<int64_t> neighbors_;
    std::vector<int64_t> starts_;
    int64_t row_bytes_ = 0;
};

std::vector<int64_t> read(const Tensor &x) {
    return {x.data_ptr<int64_t>(), x.data_ptr<int64_t>() + x.numel()};
}

// What each rank finds, with an item of each list per rank: see Engine::run_part and Crossings;
// `ranks` are the neighbours, `additions` may be empty.
std::tuple<Many, Many> run_ranks(const Tensors &tensors, const Integers &shape,
                                 const Numbers &numbers, const std::vector<int64_t> &n_centers,
                                 const Many &species, const Many &centers, const Many &neighbors,
                                 const Many &reverse, const Many &vectors, const Many &scale,
                                 const Many &additions, const Many &ranks, const Many &rows,
                                 const Many &starts) {
    const int64_t n_ranks = n_centers.size();
    Office office;
    Many energies(n_ranks), gradients(n_ranks);
    std::exception_ptr first;
    std::mutex mutex;
    auto work = [&](int64_t r) {
        try {
            Engine engine(tensors, shape, numbers);
            ThreadExchange exchange(office, r, read(ranks[r]));
            const Part part{n_centers[r], {read(rows[r]), read(starts[r])}, exchange};
            c10::optional<Tensor> addition;
            if (!additions.empty()) addition = additions[r];
            std::tie(energies[r], gradients[r], std::ignore) =
                engine.run_part(part, false, species[r], centers[r], neighbors[r], reverse[r],
                                vectors[r], scale[r], addition);
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex);
            if (!first) first = std::current_exception();
            office.close();
        }
    };
    std::vector<std::thread> threads;
    for (int64_t r = 0; r < n_ranks; r++) threads.emplace_back(work, r);
    for (std::thread &thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
    return {energies, gradients};
}

}  // namespace

}  // namespace pet_calc::engine

TORCH_LIBRARY(pet_calc_ranks, library) { library.def("run", &pet_calc::engine::run_ranks); }
