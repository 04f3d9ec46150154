// The DPI-C face of AxiMemory: one instance, one call per memory clock edge.
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "axi_memory.h"
#include "svdpi.h"

namespace {
std::unique_ptr<AxiMemory> memory;
AxiOutputs outputs;
}  // namespace

// Settings come from the file at `path`, except for the bytes of a beat. Returns 0 on success.
extern "C" int axi_memory_open(const char* path, int data_bytes) {
    try {
        std::ifstream file(path);
        if (!file) throw std::runtime_error(std::string("settings file must be readable, not ") + path);
        const std::string settings(std::istreambuf_iterator<char>(file), {});
        memory = std::make_unique<AxiMemory>(KeyValue(settings + "\ndata_bytes=" + std::to_string(data_bytes)));
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "memory: " << error.what() << std::endl;
        return 1;
    }
}

// `ar`, `aw`: {id[3:0], len[7:0], size[2:0], burst[1:0]} from the most significant bit down.
extern "C" int axi_memory_edge(long long now_ps, svBit reset, svBit arvalid, long long araddr, int ar, svBit awvalid, long long awaddr, int aw,
                               svBit wvalid, svBit wlast, const svBitVecVal* wdata, const svBitVecVal* wstrb, svBit rready, svBit bready,
                               svBit* arready, svBit* awready, svBit* wready, svBit* rvalid, svBit* rlast, int* rid, int* rresp,
                               svBitVecVal* rdata, svBit* bvalid, int* bid, int* bresp) {
    const auto field = [](int word, int low, int bits) { return static_cast<uint32_t>(word >> low) & ((1u << bits) - 1); };
    AxiInputs in{};
    in.reset = reset;
    in.arvalid = arvalid;
    in.awvalid = awvalid;
    in.wvalid = wvalid;
    in.wlast = wlast;
    in.rready = rready;
    in.bready = bready;
    in.araddr = araddr;
    in.awaddr = awaddr;
    in.arid = field(ar, 13, 4), in.arlen = field(ar, 5, 8), in.arsize = field(ar, 2, 3), in.arburst = field(ar, 0, 2);
    in.awid = field(aw, 13, 4), in.awlen = field(aw, 5, 8), in.awsize = field(aw, 2, 3), in.awburst = field(aw, 0, 2);
    in.wstrb = *wstrb;
    in.wdata = wdata;
    const bool good = memory->edge(now_ps, in, outputs);
    *arready = outputs.arready;
    *awready = outputs.awready;
    *wready = outputs.wready;
    *rvalid = outputs.rvalid;
    *rlast = outputs.rlast;
    *rid = outputs.rid;
    *rresp = outputs.rresp;
    *bvalid = outputs.bvalid;
    *bid = outputs.bid;
    *bresp = outputs.bresp;
    std::copy(outputs.rdata.begin(), outputs.rdata.end(), rdata);
    return good ? 0 : 1;
}

// From axi_monitor.sv: the run ends at the next edge, and says why.
extern "C" void axi_violation(const char* text) {
    if (memory) memory->violation(text);
}

extern "C" void axi_memory_close(long long now_ps) {
    if (!memory) return;
    try {
        memory->finish(now_ps);
    } catch (const std::exception& error) {
        std::cerr << "memory: " << error.what() << std::endl;
    }
    memory.reset();
}
