// The simulator's main loop: Verilator's timed events and cocotb's callbacks, and a VCD trace that is
// written only while the testbench says so (trace_enable), restricted to stated scopes.
//
// Plusargs: +coverage=<file> (in a build with coverage); +trace=<file>, and +trace_scope=<hierarchical name>:<depth> any number of times.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "Vtop.h"
#include "verilated.h"
#include "verilated_vpi.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

extern "C" void vlog_startup_routines_bootstrap(void);

namespace {

bool tracing = false;

#if VM_TRACE
std::unique_ptr<VerilatedVcdC> open_trace(Vtop& top, int argc, char** argv) {
    std::unique_ptr<VerilatedVcdC> trace;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.rfind("+trace=", 0) != 0) continue;
        trace = std::make_unique<VerilatedVcdC>();
        for (int j = 1; j < argc; ++j) {
            const std::string scope = argv[j];
            if (scope.rfind("+trace_scope=", 0) != 0) continue;
            const size_t colon = scope.rfind(':');
            trace->dumpvars(std::stoi(scope.substr(colon + 1)), scope.substr(13, colon - 13));
        }
        top.trace(trace.get(), 1 << 20);
        trace->open(argument.substr(7).c_str());
    }
    return trace;
}
#endif

void run_value_callbacks() {
    while (VerilatedVpi::callValueCbs()) {}
}

// Evaluate one time step until neither the design nor a callback changes anything more.
void settle(Vtop& top) {
    do {
        do {
            top.eval_step();
            VerilatedVpi::clearEvalNeeded();
            VerilatedVpi::doInertialPuts();
            run_value_callbacks();
        } while (VerilatedVpi::evalNeeded());
        VerilatedVpi::callCbs(cbReadWriteSynch);
        VerilatedVpi::doInertialPuts();
        run_value_callbacks();
    } while (VerilatedVpi::evalNeeded());
    top.eval_end_step();
    VerilatedVpi::callCbs(cbReadOnlySynch);
}

}  // namespace

extern "C" void trace_enable(svBit enable) { tracing = enable; }

int main(int argc, char** argv) {
    VerilatedContext& context = *Verilated::threadContextp();
    context.commandArgs(argc, argv);
    context.fatalOnVpiError(false);
#if VM_TRACE
    context.traceEverOn(true);
#endif
    const auto top = std::make_unique<Vtop>("");
#if VM_TRACE
    const auto trace = open_trace(*top, argc, argv);
#endif
    vlog_startup_routines_bootstrap();
    VerilatedVpi::callCbs(cbStartOfSimulation);
    run_value_callbacks();

    constexpr uint64_t never = ~uint64_t{0};
    while (!context.gotFinish()) {
        settle(*top);
#if VM_TRACE
        if (trace && tracing) trace->dump(context.time());
#endif
        const uint64_t next = std::min<uint64_t>(VerilatedVpi::cbNextDeadline(), top->eventsPending() ? top->nextTimeSlot() : never);
        if (next == never) break;
        context.time(next);
        VerilatedVpi::callCbs(cbNextSimTime);
        run_value_callbacks();
        VerilatedVpi::callTimedCbs();
        run_value_callbacks();
    }
    top->final();
    VerilatedVpi::callCbs(cbEndOfSimulation);
#if VM_TRACE
    if (trace) trace->close();
#endif
#if VM_COVERAGE
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], "+coverage=", 10) == 0) context.coveragep()->write(argv[i] + 10);
    }
#endif
    return context.errorCount() > 0;
}
