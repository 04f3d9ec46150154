#include "dram_model.h"

#include <algorithm>
#include <cstring>

DramParameters::DramParameters(const KeyValue& s)
    : tck_ps(s.integer("tck_ps")), banks(s.integer("banks")), page_bytes(s.integer("page_bytes")), burst_bytes(s.integer("burst_bytes")),
      burst(s.integer("burst")), read_latency(s.integer("read_latency")), write_latency(s.integer("write_latency")), wtr(s.integer("wtr")),
      rtw(s.integer("rtw")), rcd(s.integer("rcd")), rp(s.integer("rp")), rp_all(s.integer("rp_all")), ras(s.integer("ras")), rc(s.integer("rc")),
      rrd(s.integer("rrd")), faw(s.integer("faw")), wr(s.integer("wr")), rtp(s.integer("rtp")), rfc(s.integer("rfc")), refi(s.integer("refi")),
      queue(s.integer("queue")), write_high(s.integer("write_high")), batch(s.integer("batch")), controller_latency(s.integer("controller_latency")) {}

DramModel::DramModel(const DramParameters& parameters, std::vector<Issued>* log)
    : p_(parameters), log_(log), banks_(parameters.banks), next_refresh_(parameters.refi) {}

void DramModel::enqueue(uint64_t token, uint64_t address, bool write) {
    const int64_t page = static_cast<int64_t>(address / p_.page_bytes);
    const int64_t row = page / p_.banks;
    int64_t bank = page % p_.banks;
    for (int64_t bits = row; bits > 0; bits /= p_.banks) bank ^= bits % p_.banks;
    (write ? writes_ : reads_).push_back({token, now_, row, static_cast<int>(bank)});
}

void DramModel::advance(int64_t cycle) {
    while (now_ < cycle) {
        if (idle() && !refreshing_ && now_ < next_refresh_) {
            const int64_t to = std::min(cycle, next_refresh_);
            counters_.busy_cycles += std::clamp<int64_t>(bus_free_ - now_, 0, to - now_);
            now_ = to;
        } else {
            counters_.busy_cycles += !idle() || now_ < bus_free_;
            step();
            ++now_;
        }
    }
    counters_.cycles = now_;
}

void DramModel::take_done(std::vector<Done>& done) {
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
}

void DramModel::step() {
    if (refresh_step()) return;
    choose_direction();
    std::deque<Request>& queue = writing_ ? writes_ : reads_;
    if (!issue_column(queue)) prepare_row(queue);
}

// True while a due refresh holds back everything else: precharge all, then refresh.
bool DramModel::refresh_step() {
    if (!refreshing_) {
        if (now_ < next_refresh_) return false;
        refreshing_ = true;
        next_refresh_ += p_.refi;
    }
    const bool any_open = std::any_of(banks_.begin(), banks_.end(), [](const Bank& bank) { return bank.open_row >= 0; });
    if (any_open) {
        const bool may_close = std::all_of(banks_.begin(), banks_.end(), [this](const Bank& b) { return b.open_row < 0 || b.precharge_at <= now_; });
        if (!may_close) return true;
        issued(Command::precharge_all, -1, -1);
        for (size_t bank = 0; bank < banks_.size(); ++bank) precharge(bank, p_.rp_all);
        return true;
    }
    const bool all_closed = std::all_of(banks_.begin(), banks_.end(), [this](const Bank& bank) { return bank.activate_at <= now_; });
    if (!all_closed) return true;
    for (Bank& bank : banks_) bank.activate_at = now_ + p_.rfc;
    issued(Command::refresh, -1, -1);
    ++counters_.refreshes;
    refreshing_ = false;
    return true;
}

void DramModel::choose_direction() {
    const bool has_more = !(writing_ ? writes_ : reads_).empty();
    if (has_more && served_ < p_.batch) return;
    const bool writes_due = static_cast<int64_t>(writes_.size()) >= p_.write_high || (reads_.empty() && !writes_.empty());
    if (writing_ ? !reads_.empty() : writes_due) {
        writing_ = !writing_;
        served_ = 0;
    }
}

bool DramModel::issue_column(std::deque<Request>& queue) {
    int64_t& column_at = writing_ ? write_at_ : read_at_;
    if (queue.empty() || column_at > now_) return false;
    const Request& oldest = queue.front();
    const bool starving = now_ - oldest.arrival > max_wait;
    const auto hit = std::find_if(queue.begin(), queue.end(), [&](const Request& request) {
        const Bank& bank = banks_[request.bank];
        const bool yields = starving && request.bank == oldest.bank && request.row != oldest.row;
        return bank.open_row == request.row && bank.column_at <= now_ && !yields;
    });
    if (hit == queue.end()) return false;

    Bank& bank = banks_[hit->bank];
    const int64_t latency = writing_ ? p_.write_latency : p_.read_latency;
    const int64_t data_end = now_ + latency + p_.burst;
    counters_.turnarounds += writing_ != last_was_write_ && counters_.read_bursts + counters_.write_bursts > 0;
    last_was_write_ = writing_;
    if (writing_) {
        ++counters_.write_bursts;
        write_at_ = std::max(write_at_, now_ + p_.burst);
        read_at_ = std::max(read_at_, data_end + p_.wtr);
        bank.precharge_at = std::max(bank.precharge_at, data_end + p_.wr);
    } else {
        ++counters_.read_bursts;
        read_at_ = std::max(read_at_, now_ + p_.burst);
        write_at_ = std::max(write_at_, data_end + p_.rtw - p_.write_latency);
        bank.precharge_at = std::max(bank.precharge_at, now_ + p_.rtp);
    }
    issued(writing_ ? Command::write : Command::read, hit->bank, hit->row);
    ++served_;
    bus_free_ = data_end;
    done_.push_back({hit->token, data_end + (writing_ ? 0 : p_.controller_latency)});
    queue.erase(hit);
    return true;
}

// Close or open one row on behalf of the oldest request that needs it; the oldest request of each bank speaks for it.
bool DramModel::prepare_row(std::deque<Request>& queue) {
    const bool starving = !queue.empty() && now_ - queue.front().arrival > max_wait;
    uint64_t seen = 0;
    for (const Request& request : queue) {
        const uint64_t bit = uint64_t{1} << request.bank;
        Bank& bank = banks_[request.bank];
        if (!(seen & bit) && bank.open_row != request.row) {
            if (bank.open_row < 0) {
                const bool four_window_over = recent_activates_.size() < 4 || recent_activates_.front() + p_.faw <= now_;
                if (bank.activate_at <= now_ && activate_at_ <= now_ && four_window_over) {
                    activate(request.bank, request.row);
                    return true;
                }
            } else if (bank.precharge_at <= now_ && ((starving && request.bank == queue.front().bank) || !row_still_wanted(queue, request.bank))) {
                issued(Command::precharge, request.bank, bank.open_row);
                precharge(request.bank, p_.rp);
                return true;
            }
        }
        seen |= bit;
    }
    return false;
}

bool DramModel::row_still_wanted(const std::deque<Request>& queue, int bank) const {
    return std::any_of(queue.begin(), queue.end(),
                       [this, bank](const Request& request) { return request.bank == bank && request.row == banks_[bank].open_row; });
}

void DramModel::activate(int number, int64_t row) {
    issued(Command::activate, number, row);
    Bank& bank = banks_[number];
    bank.open_row = row;
    bank.column_at = now_ + p_.rcd;
    bank.precharge_at = now_ + p_.ras;
    bank.activate_at = now_ + p_.rc;
    activate_at_ = now_ + p_.rrd;
    recent_activates_.push_back(now_);
    if (recent_activates_.size() > 4) recent_activates_.pop_front();
    ++counters_.activates;
}

void DramModel::precharge(int number, int64_t duration) {
    Bank& bank = banks_[number];
    if (bank.open_row < 0) return;
    bank.open_row = -1;
    bank.activate_at = std::max(bank.activate_at, now_ + duration);
}

void DramModel::issued(Command command, int64_t bank, int64_t row) {
    if (log_) log_->push_back({now_, static_cast<int64_t>(command), bank, row});
}

// Run a trace of `count` requests: request i asks at times_ps[i] (not falling) for bytes[i] bytes at addresses[i].
// Reads and writes enter by a port each, in order, as the queues have room. completions_ps[i] is when the last data
// has passed; counters receives the fields of DramCounters in order; up to `log_size` commands go to `log` as
// (cycle, command, bank, row). Returns the number of commands issued, or -1 with `message` filled.
extern "C" int64_t dram_run_trace(const char* settings, int64_t count, const int64_t* times_ps, const int64_t* addresses, const int64_t* bytes,
                                  const uint8_t* writes, int64_t* completions_ps, int64_t* counters, int64_t* log, int64_t log_size,
                                  char* message, int64_t message_size) {
    try {
        const DramParameters p{KeyValue(settings)};
        std::vector<DramModel::Issued> commands;
        DramModel model(p, &commands);
        struct Port {
            int64_t request, next_address;
        };
        const auto following = [&](int64_t request, bool write) {
            while (request < count && (writes[request] != 0) != write) ++request;
            return request;
        };
        const auto aligned = [&](int64_t request) { return request < count ? addresses[request] / p.burst_bytes * p.burst_bytes : 0; };
        Port ports[2];
        for (int write = 0; write < 2; ++write) {
            const int64_t first = following(0, write);
            ports[write] = {first, aligned(first)};
        }
        std::fill_n(completions_ps, count, 0);
        std::vector<DramModel::Done> done;
        while (ports[0].request < count || ports[1].request < count || !model.idle()) {
            for (int write = 0; write < 2; ++write) {
                Port& port = ports[write];
                while (port.request < count && times_ps[port.request] <= model.now() * p.tck_ps && model.can_accept(write)) {
                    model.enqueue(port.request, port.next_address, write);
                    port.next_address += p.burst_bytes;
                    if (port.next_address >= addresses[port.request] + bytes[port.request]) {
                        port.request = following(port.request + 1, write);
                        port.next_address = aligned(port.request);
                    }
                }
            }
            int64_t next = model.now() + 1;
            if (model.idle()) {
                int64_t arrival = INT64_MAX;
                for (const Port& port : ports)
                    if (port.request < count) arrival = std::min(arrival, times_ps[port.request]);
                next = std::max(next, (arrival + p.tck_ps - 1) / p.tck_ps);
            }
            model.advance(next);
            done.clear();
            model.take_done(done);
            for (const auto& burst : done) completions_ps[burst.token] = std::max(completions_ps[burst.token], burst.cycle * p.tck_ps);
        }
        std::memcpy(counters, &model.counters(), sizeof(DramCounters));
        std::memcpy(log, commands.data(), std::min<size_t>(log_size, commands.size()) * sizeof(DramModel::Issued));
        return static_cast<int64_t>(commands.size());
    } catch (const std::exception& error) {
        std::strncpy(message, error.what(), message_size - 1);
        message[message_size - 1] = 0;
        return -1;
    }
}
