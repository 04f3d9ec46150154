// Testbench top: clocks and resets, the accelerator, its AXI4 memory (native, by DPI-C), a register
// access port for the Python bench, and the outside unit that acknowledges operating points.
//
// Plusargs: +core_period_ps= +mem_period_ps= +mem_phase_ps= +memory=<settings file> +op_ack_cycles=
// +operating_points=<file> (lines "index period_ps transition_ps") +operating_log=<file to write>
// and, in a build with tracing, +trace_windows=<file> (lines "first last": core cycles since the
// program's start, ascending) beside the plusargs of main.cpp.
`timescale 1ps / 1ps

module tb #(
    parameter int AXI_DATA_BITS = 64
);
    import "DPI-C" function int axi_memory_open(input string path, input int data_bytes);
    import "DPI-C" function void axi_memory_close(input longint now_ps);
    import "DPI-C" function int axi_memory_edge(
        input longint now_ps, input bit reset,
        input bit arvalid, input longint araddr, input int ar,
        input bit awvalid, input longint awaddr, input int aw,
        input bit wvalid, input bit wlast, input bit [255:0] wdata, input bit [31:0] wstrb,
        input bit rready, input bit bready,
        output bit arready, output bit awready, output bit wready,
        output bit rvalid, output bit rlast, output int rid, output int rresp, output bit [255:0] rdata,
        output bit bvalid, output int bid, output int bresp);

    // --- what the bench drives and reads ----------------------------------------------------
    bit        reg_request  /* verilator public_flat_rw */;
    bit        reg_write    /* verilator public_flat_rw */;
    bit [11:0] reg_address  /* verilator public_flat_rw */;
    bit [31:0] reg_wdata    /* verilator public_flat_rw */;
    bit [31:0] reg_rdata    /* verilator public_flat_rd */;
    bit [1:0]  reg_response /* verilator public_flat_rd */;
    bit        reg_done     /* verilator public_flat_rd */;
    bit        started      /* verilator public_flat_rw */;
    bit        ready        /* verilator public_flat_rd */;
    bit        interrupt    /* verilator public_flat_rd */;
    longint    run_cycles   /* verilator public_flat_rd */;
    int        op_requests  /* verilator public_flat_rd */;

    // --- clocks and resets ------------------------------------------------------------------
    bit core_clk, mem_clk, core_rst = 1, mem_rst = 1;
    int core_period_ps = 1000, mem_period_ps = 2500, mem_phase_ps = 0, op_ack_cycles = 4;

    initial begin
        void'($value$plusargs("core_period_ps=%d", core_period_ps));
        void'($value$plusargs("op_ack_cycles=%d", op_ack_cycles));
        read_operating_points();
        forever begin
            if (op_table) switch_operating_point();
            #(core_period_ps - core_period_ps / 2) core_clk = 1;
            #(core_period_ps / 2) core_clk = 0;
        end
    end

    initial begin
        void'($value$plusargs("mem_period_ps=%d", mem_period_ps));
        void'($value$plusargs("mem_phase_ps=%d", mem_phase_ps));
        if (mem_phase_ps > 0) #(mem_phase_ps);
        forever begin
            #(mem_period_ps - mem_period_ps / 2) mem_clk = 1;
            #(mem_period_ps / 2) mem_clk = 0;
        end
    end

    initial begin
        repeat (8) @(negedge core_clk);
        repeat (8) @(negedge mem_clk);
        @(negedge core_clk) core_rst = 0;
        @(negedge mem_clk) mem_rst = 0;
        repeat (8) @(negedge core_clk);
        repeat (8) @(negedge mem_clk);
        ready = 1;
    end

    always @(posedge core_clk) if (started) run_cycles <= run_cycles + 1;

    // --- the accelerator --------------------------------------------------------------------
    wire [3:0] arid, awid;
    wire [39:0] araddr, awaddr;
    wire [7:0] arlen, awlen;
    wire [2:0] arsize, awsize;
    wire [1:0] arburst, awburst;
    wire arvalid, awvalid, wvalid, wlast, rready, bready, irq;
    wire [AXI_DATA_BITS-1:0] wdata;
    wire [AXI_DATA_BITS/8-1:0] wstrb;
    bit arready, awready, wready, rvalid, rlast, bvalid;
    int rid, rresp, bid, bresp;
    bit [255:0] rdata;

    bit awvalid_lite, wvalid_lite, arvalid_lite;
    wire awready_lite, wready_lite, arready_lite, bvalid_lite, rvalid_lite;
    wire [1:0] bresp_lite, rresp_lite;
    wire [31:0] rdata_lite;

    wire op_req_valid;
    wire [7:0] op_req_index;
    wire op_ack;
    int op_waited;

    accelerator dut (
        .core_clk(core_clk), .core_rst(core_rst), .mem_clk(mem_clk), .mem_rst(mem_rst),
        .m_axi_arid(arid), .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arsize(arsize), .m_axi_arburst(arburst),
        .m_axi_arvalid(arvalid), .m_axi_arready(arready),
        .m_axi_rid(rid[3:0]), .m_axi_rdata(rdata[AXI_DATA_BITS-1:0]), .m_axi_rresp(rresp[1:0]), .m_axi_rlast(rlast),
        .m_axi_rvalid(rvalid), .m_axi_rready(rready),
        .m_axi_awid(awid), .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awsize(awsize), .m_axi_awburst(awburst),
        .m_axi_awvalid(awvalid), .m_axi_awready(awready),
        .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid), .m_axi_wready(wready),
        .m_axi_bid(bid[3:0]), .m_axi_bresp(bresp[1:0]), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
        .s_axi_awaddr(reg_address), .s_axi_awvalid(awvalid_lite), .s_axi_awready(awready_lite),
        .s_axi_wdata(reg_wdata), .s_axi_wstrb(4'hf), .s_axi_wvalid(wvalid_lite), .s_axi_wready(wready_lite),
        .s_axi_bresp(bresp_lite), .s_axi_bvalid(bvalid_lite), .s_axi_bready(1'b1),
        .s_axi_araddr(reg_address), .s_axi_arvalid(arvalid_lite), .s_axi_arready(arready_lite),
        .s_axi_rdata(rdata_lite), .s_axi_rresp(rresp_lite), .s_axi_rvalid(rvalid_lite), .s_axi_rready(1'b1),
        .irq(irq),
        .op_req_valid(op_req_valid), .op_req_index(op_req_index), .op_ack(op_ack)
    );

    always_comb interrupt = irq;

    axi_monitor #(.NAME("AXI4"), .BYTES(AXI_DATA_BITS / 8)) axi_monitor (
        .clk(mem_clk), .rst(mem_rst), .arid(arid), .araddr(araddr), .arlen(arlen), .arsize(arsize), .arburst(arburst), .arvalid(arvalid), .arready(arready),
        .rid(rid[3:0]), .rdata(rdata[AXI_DATA_BITS-1:0]), .rresp(rresp[1:0]), .rlast(rlast), .rvalid(rvalid), .rready(rready),
        .awid(awid), .awaddr(awaddr), .awlen(awlen), .awsize(awsize), .awburst(awburst), .awvalid(awvalid), .awready(awready),
        .wdata(wdata), .wstrb(wstrb), .wlast(wlast), .wvalid(wvalid), .wready(wready),
        .bid(bid[3:0]), .bresp(bresp[1:0]), .bvalid(bvalid), .bready(bready)
    );
    axi_monitor #(.NAME("AXI4-Lite"), .BYTES(4)) lite_monitor (
        .clk(mem_clk), .rst(mem_rst), .arid(0), .araddr(40'(reg_address)), .arlen(0), .arsize(2), .arburst(1), .arvalid(arvalid_lite), .arready(arready_lite),
        .rid(0), .rdata(rdata_lite), .rresp(rresp_lite), .rlast(1), .rvalid(rvalid_lite), .rready(1),
        .awid(0), .awaddr(40'(reg_address)), .awlen(0), .awsize(2), .awburst(1), .awvalid(awvalid_lite), .awready(awready_lite),
        .wdata(reg_wdata), .wstrb('1), .wlast(1), .wvalid(wvalid_lite), .wready(wready_lite),
        .bid(0), .bresp(bresp_lite), .bvalid(bvalid_lite), .bready(1)
    );

    // --- memory -----------------------------------------------------------------------------
    string memory_settings;
    initial begin
        if (!$value$plusargs("memory=%s", memory_settings) || axi_memory_open(memory_settings, AXI_DATA_BITS / 8) != 0) $fatal(1, "no memory settings");
    end
    final axi_memory_close($time);

    bit n_arready, n_awready, n_wready, n_rvalid, n_rlast, n_bvalid;
    int n_rid, n_rresp, n_bid, n_bresp;
    bit [255:0] n_rdata;
    always @(posedge mem_clk) begin
        if (axi_memory_edge($time, mem_rst,
                arvalid, {24'b0, araddr}, {15'b0, arid, arlen, arsize, arburst},
                awvalid, {24'b0, awaddr}, {15'b0, awid, awlen, awsize, awburst},
                wvalid, wlast, 256'(wdata), 32'(wstrb), rready, bready,
                n_arready, n_awready, n_wready, n_rvalid, n_rlast, n_rid, n_rresp, n_rdata, n_bvalid, n_bid, n_bresp) != 0)
            $finish;
        arready <= n_arready;
        awready <= n_awready;
        wready <= n_wready;
        rvalid <= n_rvalid;
        rlast <= n_rlast;
        rid <= n_rid;
        rresp <= n_rresp;
        rdata <= n_rdata;
        bvalid <= n_bvalid;
        bid <= n_bid;
        bresp <= n_bresp;
    end

    // --- register accesses, one at a time ---------------------------------------------------
    bit reg_busy;
    always @(posedge mem_clk) begin
        if (mem_rst) begin
            reg_busy <= 0;
            reg_done <= 0;
        end else if (!reg_busy && !reg_done && reg_request) begin
            reg_busy <= 1;
            awvalid_lite <= reg_write;
            wvalid_lite <= reg_write;
            arvalid_lite <= !reg_write;
        end else if (reg_busy) begin
            if (awready_lite) awvalid_lite <= 0;
            if (wready_lite) wvalid_lite <= 0;
            if (arready_lite) arvalid_lite <= 0;
            if (reg_write ? bvalid_lite : rvalid_lite) begin
                reg_rdata <= rdata_lite;
                reg_response <= reg_write ? bresp_lite : rresp_lite;
                reg_busy <= 0;
                reg_done <= 1;
            end
        end else if (reg_done && !reg_request) reg_done <= 0;
    end

    // --- operating points -------------------------------------------------------------------
    // Without a table a request is acknowledged after op_ack_cycles, until it falls, and changes nothing. With a table the core clock
    // then stands still for the point's transition time, goes on with its period, and the request is acknowledged.
    bit op_table, op_switched, op_granted;
    int op_period_ps[256], op_transition_ps[256];
    int op_log;
    string op_file;
    assign op_ack = op_table ? op_switched : op_granted;

    task automatic read_operating_points();
        int file, index, period, transition;
        if ($value$plusargs("operating_points=%s", op_file)) begin
            file = $fopen(op_file, "r");
            while ($fscanf(file, "%d %d %d", index, period, transition) == 3) begin
                op_period_ps[index] = period;
                op_transition_ps[index] = transition;
            end
            $fclose(file);
            void'($value$plusargs("operating_log=%s", op_file));
            op_log = $fopen(op_file, "w");
            op_table = 1;
        end
    endtask

    // Called while the core clock is low; op_waited is the number of its edges since the request.
    task automatic switch_operating_point();
        if (!op_req_valid) op_switched = 0;
        else if (!op_switched && op_waited > op_ack_cycles) begin
            $fdisplay(op_log, "leave %0d %0d", op_req_index, $time);
            if (op_period_ps[op_req_index] == 0) begin
                $finish;
                return;
            end
            core_period_ps = op_period_ps[op_req_index];
            if (op_transition_ps[op_req_index] > 0) #(op_transition_ps[op_req_index]);
            $fdisplay(op_log, "enter %0d %0d", op_req_index, $time);
            op_switched = 1;
        end
    endtask

    always @(posedge started) if (op_table) $fdisplay(op_log, "start 0 %0d", $time);
    always @(posedge interrupt) if (op_table) $fdisplay(op_log, "end 0 %0d", $time);
    final if (op_table) $fclose(op_log);

    always @(posedge core_clk) begin
        op_waited <= op_req_valid ? op_waited + 1 : 0;
        op_granted <= op_req_valid && op_waited >= op_ack_cycles;
        if (op_req_valid && op_waited == op_ack_cycles) op_requests <= op_requests + 1;
    end

`ifdef TRACE
    // --- trace of stated windows; main.cpp writes it ----------------------------------------
    import "DPI-C" function void trace_enable(input bit enable);
    string windows_file;
    int windows;
    longint first, last;
    bit more_windows, traced;
    initial if ($value$plusargs("trace_windows=%s", windows_file)) begin
        windows = $fopen(windows_file, "r");
        more_windows = $fscanf(windows, "%d %d", first, last) == 2;
    end
    always @(negedge core_clk) if (more_windows && started) begin
        if (traced && run_cycles > last) more_windows = $fscanf(windows, "%d %d", first, last) == 2;
        traced = more_windows && run_cycles >= first;
        trace_enable(traced);
    end
`endif
endmodule
