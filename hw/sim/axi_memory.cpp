#include "axi_memory.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace {

constexpr uint64_t page_bytes = 1 << 16;
constexpr size_t write_data_depth = 16;
constexpr uint32_t response_ok = 0, response_slave_error = 2, response_decode_error = 3;
constexpr uint64_t write_token = uint64_t{1} << 63;

std::string hex(uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("file must be readable, not " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

}  // namespace

AxiMemory::AxiMemory(const KeyValue& settings)
    : settings_(settings), data_bytes_(settings.integer("data_bytes")), stall_(settings.real("stall_probability")),
      max_outstanding_(settings.integer("max_outstanding")), jitter_ps_(settings.integer("jitter_ps")),
      interleave_(settings.integer("interleave") != 0), random_(settings.integer("seed")) {
    for (const std::string& text : settings.all("window")) {
        const auto part = split(text, ':');
        windows_.push_back({std::stoull(part.at(0)), std::stoull(part.at(1)), part.at(2).find('r') != std::string::npos,
                            part.at(2).find('w') != std::string::npos});
    }
    for (const std::string& text : settings.all("fault")) {
        const auto part = split(text, ':');
        const uint32_t response = part.at(2) == "decode" ? response_decode_error : response_slave_error;
        faults_.push_back({{std::stoull(part.at(0)), std::stoull(part.at(1)), true, true}, response});
    }
    if (settings.has("ideal_latency_ps")) {
        ideal_latency_ps_ = settings.integer("ideal_latency_ps");
        burst_bytes_ = data_bytes_;
    } else {
        dram_ = std::make_unique<DramModel>(DramParameters(settings));
        burst_bytes_ = dram_->parameters().burst_bytes;
    }
    load_image(settings.text("image"));
}

bool AxiMemory::edge(int64_t now_ps, const AxiInputs& in, AxiOutputs& out) {
    now_ps_ = now_ps;
    if (dram_) {
        dram_->advance(now_ps / dram_->parameters().tck_ps);
        done_.clear();
        dram_->take_done(done_);
        for (const auto& burst : done_) {
            if (burst.token & write_token) continue;
            const auto read = std::find_if(reads_.begin(), reads_.end(), [&](const Transaction& t) { return t.serial == burst.token >> 8; });
            read->ready_ps[burst.token & 255] = burst.cycle * dram_->parameters().tck_ps + jitter();
        }
    }
    if (in.reset) {
        out = {};
        return true;
    }
    ++edges_;
    read_wait_edges_ += !reads_.empty() && !out.rvalid;
    write_wait_edges_ += in.wvalid && !out.wready;

    if (in.awvalid && out.awready) accept_address(true, in.awaddr, in.awid, in.awlen);
    if (in.arvalid && out.arready) accept_address(false, in.araddr, in.arid, in.arlen);
    if (in.wvalid && out.wready) {
        WriteBeat taken{{}, in.wstrb};
        std::copy_n(in.wdata, (data_bytes_ + 3) / 4, taken.data.begin());
        write_data_.push_back(taken);
    }
    take_write_data();
    if (dram_) feed_dram();
    finish_writes();
    drive_read(out.rvalid && in.rready, out);
    drive_write_response(out.bvalid && in.bready, out);
    out.arready = reads_.size() < max_outstanding_ && !stalled();
    out.awready = writes_.size() + responses_.size() < max_outstanding_ && !stalled();
    out.wready = write_data_.size() < write_data_depth && !stalled();
    return violation_.empty();
}

void AxiMemory::accept_address(bool write, uint64_t address, uint32_t id, uint32_t len) {
    Transaction t;
    t.serial = next_serial_++;
    t.address = address / data_bytes_ * data_bytes_;  // the monitor has reported one that is not aligned
    t.id = id;
    t.beats = len + 1;
    const uint64_t bytes = length(t);
    const std::string what = std::string(write ? "write" : "read") + " burst at " + hex(address) + " of " + std::to_string(bytes) + " bytes ";
    if (!write && std::none_of(windows_.begin(), windows_.end(), [&](const Window& w) { return w.read && w.holds(address, bytes); }))
        violation(what + "lies outside every readable window");
    if (write && std::none_of(windows_.begin(), windows_.end(), [&](const Window& w) { return w.write && w.touches(address, bytes); }))
        violation(what + "lies outside every writable window");
    for (const auto& [window, response] : faults_)
        if (window.touches(address, bytes)) t.response = response;

    // Reads and writes are unordered to each other, so an overlap would read or leave either value.
    const auto overlaps = [&](uint64_t other, uint64_t other_bytes) { return address < other + other_bytes && other < address + bytes; };
    if (write) {
        for (const Transaction& read : reads_)
            if (overlaps(read.address, length(read))) violation(what + "overlaps a read that has not been answered");
        open_writes_.push_back({address, bytes});
        writes_.push_back(std::move(t));
        ++write_transactions_;
    } else {
        for (const auto& [other, other_bytes] : open_writes_)
            if (overlaps(other, other_bytes)) violation(what + "overlaps a write that has not been acknowledged");
        t.ready_ps.assign(dram_ ? burst_count(t) : 1, dram_ ? INT64_MAX : now_ps_ + ideal_latency_ps_ + jitter());
        reads_.push_back(std::move(t));
        ++read_transactions_;
    }
}

void AxiMemory::take_write_data() {
    for (Transaction& write : writes_) {
        while (write.beats_done < write.beats && !write_data_.empty()) {
            if (dram_ && write.beats_done > 0) {  // a full burst that found no room in the DRAM's queue holds back the data after it
                const uint64_t taken_to = write.address + write.beats_done * data_bytes_;
                if (taken_to / burst_bytes_ - write.address / burst_bytes_ > write.bursts_queued + 1) return;
            }
            const WriteBeat beat = write_data_.front();
            write_data_.pop_front();
            const bool last = write.beats_done + 1 == write.beats;
            if (write.response == response_ok) store(write, beat);
            ++write.beats_done;
            ++write_beats_;
            if (last && !dram_) write.ready_ps.assign(1, now_ps_ + ideal_latency_ps_ + jitter());
        }
        if (write.beats_done < write.beats) return;
    }
}

void AxiMemory::store(const Transaction& write, const WriteBeat& beat) {
    const uint64_t address = write.address + write.beats_done * data_bytes_;
    const auto* data = reinterpret_cast<const uint8_t*>(beat.data.data());
    uint8_t* memory = bytes_at(address);
    for (uint64_t lane = 0; lane < data_bytes_; ++lane) {
        if (!(beat.strobe >> lane & 1)) continue;
        if (std::none_of(windows_.begin(), windows_.end(), [&](const Window& w) { return w.write && w.holds(address + lane, 1); })) {
            violation("write to " + hex(address + lane) + " lies outside every writable window");
            return;
        }
        memory[lane] = data[lane];
    }
}

void AxiMemory::feed_dram() {
    for (Transaction& read : reads_) {
        for (; read.bursts_queued < burst_count(read) && dram_->can_accept(false); ++read.bursts_queued)
            dram_->enqueue(read.serial << 8 | read.bursts_queued, (read.address / burst_bytes_ + read.bursts_queued) * burst_bytes_, false);
        if (read.bursts_queued < burst_count(read)) break;
    }
    for (Transaction& write : writes_) {
        const bool all = write.beats_done == write.beats;
        const uint64_t complete =
            all ? burst_count(write) : (write.address + write.beats_done * data_bytes_) / burst_bytes_ - write.address / burst_bytes_;
        for (; write.bursts_queued < complete && dram_->can_accept(true); ++write.bursts_queued)
            dram_->enqueue(write_token, (write.address / burst_bytes_ + write.bursts_queued) * burst_bytes_, true);
        if (!all || write.bursts_queued < complete) break;
    }
}

// A write is answered when its data is in the controller's queue.
void AxiMemory::finish_writes() {
    while (!writes_.empty()) {
        const Transaction& write = writes_.front();
        if (write.beats_done < write.beats) return;
        if (dram_ ? write.bursts_queued < burst_count(write) : write.ready_ps[0] > now_ps_) return;
        responses_.push_back({write.id, write.response});
        writes_.pop_front();
    }
}

bool AxiMemory::beat_ready(const Transaction& read) const {
    if (!dram_) return read.ready_ps[0] <= now_ps_;
    const uint64_t first = read.address + read.beats_done * data_bytes_;
    for (uint64_t burst = first / burst_bytes_; burst <= (first + data_bytes_ - 1) / burst_bytes_; ++burst)
        if (read.ready_ps[burst - read.address / burst_bytes_] > now_ps_) return false;
    return true;
}

// In order within one id. Between ids: bursts whole, first ready first; or with `interleave` beat by beat, drawn at random.
void AxiMemory::drive_read(bool taken, AxiOutputs& out) {
    if (taken) {
        const auto read = std::find_if(reads_.begin(), reads_.end(), [&](const Transaction& t) { return t.serial == *returning_; });
        ++read_beats_;
        if (++read->beats_done == read->beats) {
            reads_.erase(read);
            returning_.reset();
        } else if (interleave_) {
            returning_.reset();
        }
    } else if (out.rvalid) {
        return;
    }
    out.rvalid = false;
    auto next = reads_.begin();
    if (returning_) {
        next = std::find_if(reads_.begin(), reads_.end(), [&](const Transaction& t) { return t.serial == *returning_; });
    } else {
        uint32_t passed_ids = 0, seen = 0;
        next = reads_.end();
        for (auto read = reads_.begin(); read != reads_.end() && (interleave_ || next == reads_.end()); ++read) {
            if (!(passed_ids >> read->id & 1) && beat_ready(*read) && random_() % ++seen == 0) next = read;
            passed_ids |= uint32_t{1} << read->id;
        }
    }
    if (next == reads_.end() || !beat_ready(*next) || stalled()) return;
    returning_ = next->serial;
    out.rvalid = true;
    out.rid = next->id;
    out.rlast = next->beats_done + 1 == next->beats;
    out.rresp = next->response;
    std::memcpy(out.rdata.data(), bytes_at(next->address + next->beats_done * data_bytes_), data_bytes_);
}

void AxiMemory::drive_write_response(bool taken, AxiOutputs& out) {
    if (taken) {
        responses_.pop_front();
        open_writes_.pop_front();
    } else if (out.bvalid) {
        return;
    }
    out.bvalid = !responses_.empty() && !stalled();
    if (out.bvalid) std::tie(out.bid, out.bresp) = responses_.front();
}

void AxiMemory::violation(const std::string& text) {
    if (!violation_.empty()) return;
    violation_ = text;
    std::fprintf(stderr, "AXI violation at %lld ps: %s\n", static_cast<long long>(now_ps_), text.c_str());
}

// A beat never straddles a page: both are powers of two and beats are aligned.
uint8_t* AxiMemory::bytes_at(uint64_t address) {
    std::vector<uint8_t>& page = pages_[address / page_bytes];
    if (page.empty()) {
        page.resize(page_bytes);
        uint64_t state = address / page_bytes * 0x9e3779b97f4a7c15u + 0xd1b54a32d192ed03u;
        for (uint8_t& byte : page) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            byte = static_cast<uint8_t>(state >> 56);
        }
    }
    return page.data() + address % page_bytes;
}

void AxiMemory::load_image(const std::string& path) {
    const std::string image = read_file(path);
    for (uint64_t at = 0; at < image.size(); at += page_bytes)
        std::memcpy(bytes_at(at), image.data() + at, std::min<uint64_t>(page_bytes, image.size() - at));
}

void AxiMemory::finish(int64_t now_ps) {
    if (settings_.has("dump")) {
        std::ofstream dump(settings_.text("dump"), std::ios::binary);
        const uint64_t base = settings_.integer("dump_base"), bytes = settings_.integer("dump_bytes");
        for (uint64_t at = base; at < base + bytes; ++at) dump.put(static_cast<char>(*bytes_at(at)));
        if (!dump.flush()) throw std::runtime_error("dump must be writable: " + settings_.text("dump"));
    }
    std::ofstream result(settings_.text("result"));
    result << "simulated_ps " << now_ps << "\nmem_cycles " << edges_ << "\nread_bytes " << read_beats_ * data_bytes_ << "\nwrite_bytes "
           << write_beats_ * data_bytes_ << "\nread_transactions " << read_transactions_ << "\nwrite_transactions " << write_transactions_
           << "\nread_wait_cycles " << read_wait_edges_ << "\nwrite_wait_cycles " << write_wait_edges_ << "\nopen_transactions "
           << reads_.size() + open_writes_.size() << "\n";
    if (dram_) {
        dram_->advance(now_ps / dram_->parameters().tck_ps);
        const DramCounters& c = dram_->counters();
        result << "dram_activates " << c.activates << "\ndram_read_bursts " << c.read_bursts << "\ndram_write_bursts " << c.write_bursts
               << "\ndram_refreshes " << c.refreshes << "\ndram_turnarounds " << c.turnarounds << "\ndram_busy_cycles " << c.busy_cycles
               << "\ndram_cycles " << c.cycles << "\n";
    }
    if (!violation_.empty()) result << "violation " << violation_ << "\n";
    if (!result.flush()) throw std::runtime_error("result must be writable: " + settings_.text("result"));
}
