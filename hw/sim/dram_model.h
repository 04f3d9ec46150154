// Cycle-level timing model of one DRAM channel and its controller. It moves no data.
//
// Address mapping, from the most significant bits down: row, bank, column, the bank number XORed with
// the row's bits so that streams a power of two apart do not meet in one bank. A sequential stream
// uses one whole page, then goes on in another bank, whose activation the queue lets begin early.
//
// The controller keeps pages open and issues at most one command a clock. Reads go first: writes wait
// until `write_high` of them are queued or no read is. Once a direction is served it stays until it
// has nothing left or `batch` bursts are done. Within the direction being served the oldest request whose
// row is open and ready goes first; a free command slot opens the row of the oldest request that
// needs one. A row that a queued request of this direction still hits is not closed, unless it
// keeps the oldest request waiting longer than `max_wait`. Every tREFI all banks are closed and refreshed.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "key_value.h"

struct DramParameters {
    explicit DramParameters(const KeyValue& settings);

    int64_t tck_ps, banks, page_bytes, burst_bytes;
    // In clock cycles, by the standard's names without the t.
    int64_t burst, read_latency, write_latency, wtr, rtw, rcd, rp, rp_all, ras, rc, rrd, faw, wr, rtp, rfc, refi;
    int64_t queue, write_high, batch, controller_latency;
};

struct DramCounters {
    int64_t activates = 0, read_bursts = 0, write_bursts = 0, refreshes = 0;
    int64_t turnarounds = 0;    // changes of the data bus's direction
    int64_t busy_cycles = 0;    // requests queued or data on the bus
    int64_t cycles = 0;
};

class DramModel {
  public:
    struct Done {
        uint64_t token;
        int64_t cycle;  // when the last data of the burst has passed (reads: has reached the requester)
    };

    enum class Command : int64_t { activate, precharge, precharge_all, read, write, refresh };
    struct Issued {
        int64_t cycle, command, bank, row;
    };

    // Every command issued is appended to `log`, if there is one.
    explicit DramModel(const DramParameters& parameters, std::vector<Issued>* log = nullptr);

    bool can_accept(bool write) const { return static_cast<int64_t>((write ? writes_ : reads_).size()) < p_.queue; }
    // Queue one burst that holds `address`; the caller has asked can_accept.
    void enqueue(uint64_t token, uint64_t address, bool write);
    // Run the clock up to `cycle`, not including it.
    void advance(int64_t cycle);
    // Bursts completed since the last call are appended to `done`; their cycle may lie in the future.
    void take_done(std::vector<Done>& done);

    bool idle() const { return reads_.empty() && writes_.empty(); }
    int64_t now() const { return now_; }
    const DramParameters& parameters() const { return p_; }
    const DramCounters& counters() const { return counters_; }

  private:
    struct Request {
        uint64_t token;
        int64_t arrival;
        int64_t row;
        int bank;
    };
    struct Bank {
        int64_t open_row = -1;
        int64_t activate_at = 0, column_at = 0, precharge_at = 0;  // earliest cycle of the next such command
    };

    void step();
    bool refresh_step();
    void choose_direction();
    bool issue_column(std::deque<Request>& queue);
    bool prepare_row(std::deque<Request>& queue);
    bool row_still_wanted(const std::deque<Request>& queue, int bank) const;
    void activate(int bank, int64_t row);
    void precharge(int bank, int64_t duration);
    void issued(Command command, int64_t bank, int64_t row);

    static constexpr int64_t max_wait = 1024;  // clock cycles

    const DramParameters p_;
    std::vector<Issued>* const log_;
    DramCounters counters_;
    std::deque<Request> reads_, writes_;
    std::vector<Bank> banks_;
    std::vector<Done> done_;
    bool writing_ = false, last_was_write_ = false, refreshing_ = false;
    int64_t now_ = 0, next_refresh_, bus_free_ = 0, served_ = 0;  // served_: bursts since the direction changed
    int64_t read_at_ = 0, write_at_ = 0, activate_at_ = 0;  // earliest next read, write and activate of any bank
    std::deque<int64_t> recent_activates_;                  // at most four, for tFAW
};
