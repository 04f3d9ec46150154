// AXI4 slave memory for a testbench: data, timing, random stalls, and checks of what depends on its contents and windows
// (axi_monitor.sv checks the protocol).
//
// Settings (key=value, see KeyValue):
//   data_bytes            bytes of a beat
//   image                 file with the contents from address 0; bytes never written read as an address-dependent pattern
//   window                base:bytes:r|w|rw, any number; an access outside every window with that right is a violation
//   fault                 base:bytes:slave|decode, any number; bursts that touch it get SLVERR or DECERR and change nothing
//   dump, dump_base, dump_bytes, result   files written at the end: memory contents, and counters as "key value" lines
//   seed, stall_probability               of each ready and each new valid to be held back for a cycle
//   jitter_ps             added to each latency: a uniform draw from 0 to this
//   interleave            1: beats of ready bursts of different ids come in random turns; 0: bursts are returned whole
//   max_outstanding       transactions accepted and not yet answered, of each direction
//   ideal_latency_ps      fixed latency and unlimited bandwidth; otherwise the keys of DramParameters
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "dram_model.h"

struct AxiInputs {  // what the master drives, sampled at the clock edge
    bool reset;
    bool arvalid, awvalid, wvalid, wlast, rready, bready;
    uint32_t arid, arlen, arsize, arburst, awid, awlen, awsize, awburst, wstrb;
    uint64_t araddr, awaddr;
    const uint32_t* wdata;
};

struct AxiOutputs {  // what the memory drives after the edge
    bool arready = false, awready = false, wready = false, rvalid = false, rlast = false, bvalid = false;
    uint32_t rid = 0, rresp = 0, bid = 0, bresp = 0;
    std::array<uint32_t, 8> rdata{};
};

class AxiMemory {
  public:
    explicit AxiMemory(const KeyValue& settings);

    // One rising clock edge at `now_ps`. Returns false after a violation of the protocol.
    bool edge(int64_t now_ps, const AxiInputs& in, AxiOutputs& out);
    void finish(int64_t now_ps);  // write the dump and the result file
    void violation(const std::string& text);  // report the first; edge() returns false from then on

  private:
    struct Window {
        uint64_t base, bytes;
        bool read, write;
        bool holds(uint64_t address, uint64_t length) const { return address >= base && address + length <= base + bytes; }
        bool touches(uint64_t address, uint64_t length) const { return address < base + bytes && base < address + length; }
    };
    struct Transaction {
        uint64_t serial, address;
        uint32_t id, beats;
        uint32_t response = 0;
        uint32_t beats_done = 0;        // reads: returned; writes: taken from the master
        uint64_t bursts_queued = 0;     // handed to the DRAM model
        std::vector<int64_t> ready_ps;  // reads: when the data of each DRAM burst is there; ideal memory: one entry for all
    };
    struct WriteBeat {
        std::array<uint32_t, 8> data;
        uint32_t strobe;
    };

    void accept_address(bool write, uint64_t address, uint32_t id, uint32_t len);
    void take_write_data();
    void store(const Transaction& write, const WriteBeat& beat);
    void feed_dram();
    void finish_writes();
    void drive_read(bool taken, AxiOutputs& out);
    void drive_write_response(bool taken, AxiOutputs& out);
    bool beat_ready(const Transaction& read) const;
    bool stalled() { return stall_ > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < stall_; }

    int64_t jitter() { return jitter_ps_ > 0 ? std::uniform_int_distribution<int64_t>(0, jitter_ps_)(random_) : 0; }

    uint64_t length(const Transaction& t) const { return static_cast<uint64_t>(t.beats) * data_bytes_; }
    uint64_t burst_count(const Transaction& t) const { return (t.address + length(t) - 1) / burst_bytes_ - t.address / burst_bytes_ + 1; }
    uint8_t* bytes_at(uint64_t address);
    void load_image(const std::string& path);

    const KeyValue settings_;
    const uint64_t data_bytes_;
    const double stall_;
    const size_t max_outstanding_;
    const int64_t jitter_ps_;
    const bool interleave_;
    std::vector<Window> windows_;
    std::vector<std::pair<Window, uint32_t>> faults_;  // and the response
    std::unordered_map<uint64_t, std::vector<uint8_t>> pages_;
    std::mt19937_64 random_;

    std::unique_ptr<DramModel> dram_;  // none: ideal memory
    std::vector<DramModel::Done> done_;
    int64_t ideal_latency_ps_ = 0;
    uint64_t burst_bytes_;

    int64_t now_ps_ = 0;
    uint64_t next_serial_ = 0;
    std::deque<Transaction> reads_, writes_;  // accepted and not finished, in order
    std::deque<WriteBeat> write_data_;
    std::deque<std::pair<uint32_t, uint32_t>> responses_;     // id and response of writes whose data is stored
    std::deque<std::pair<uint64_t, uint64_t>> open_writes_;   // address and bytes of writes not yet acknowledged
    std::optional<uint64_t> returning_;                       // serial of the read that has the R channel
    std::string violation_;
    int64_t edges_ = 0, read_beats_ = 0, write_beats_ = 0, read_transactions_ = 0, write_transactions_ = 0;
    int64_t read_wait_edges_ = 0, write_wait_edges_ = 0;  // edges with a read open and no data offered; with write data refused
};
