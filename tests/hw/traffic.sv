// A traffic generator with the accelerator's ports, to test the memory and the bench without it.
//
// PROGRAM_ADDRESS is the source, PROGRAM_BYTES how much; the destination is the source + 1 MiB.
// PROGRAM_ADDRESS_HIGH holds [11:8] what to do, [12] two ids, [23:16] beats of a burst - 1:
//   0 read, 1 write a pattern, 2 read one place and write another, 3 copy, 9 copy the even bytes,
//   and broken traffic: 4 start 64 bytes before a 4 KB boundary, 5 WRAP bursts, 6 WLAST one beat early,
//   7 change ARADDR while it waits, 8 read where the write goes.
// Two ids: bursts take id 0 and 1 in turn, id 1 reads 1 MiB further up. ERROR_ADDRESS and the next two words read as a checksum of each id's data and
// the number of bursts that came back out of turn.
module accelerator #(
    parameter int W = 64
) (
    input core_clk, core_rst, mem_clk, mem_rst,
    output bit [3:0] m_axi_arid, output bit [39:0] m_axi_araddr, output bit [7:0] m_axi_arlen, output bit [2:0] m_axi_arsize,
    output bit [1:0] m_axi_arburst, output bit m_axi_arvalid, input m_axi_arready,
    input [3:0] m_axi_rid, input [W-1:0] m_axi_rdata, input [1:0] m_axi_rresp, input m_axi_rlast, m_axi_rvalid, output m_axi_rready,
    output bit [3:0] m_axi_awid, output bit [39:0] m_axi_awaddr, output bit [7:0] m_axi_awlen, output bit [2:0] m_axi_awsize,
    output bit [1:0] m_axi_awburst, output bit m_axi_awvalid, input m_axi_awready,
    output bit [W-1:0] m_axi_wdata, output bit [W/8-1:0] m_axi_wstrb, output bit m_axi_wlast, m_axi_wvalid, input m_axi_wready,
    input [3:0] m_axi_bid, input [1:0] m_axi_bresp, input m_axi_bvalid, output m_axi_bready,
    input [11:0] s_axi_awaddr, input s_axi_awvalid, output s_axi_awready, input [31:0] s_axi_wdata, input [3:0] s_axi_wstrb,
    input s_axi_wvalid, output s_axi_wready, output [1:0] s_axi_bresp, output bit s_axi_bvalid, input s_axi_bready,
    input [11:0] s_axi_araddr, input s_axi_arvalid, output s_axi_arready, output bit [31:0] s_axi_rdata, output [1:0] s_axi_rresp,
    output bit s_axi_rvalid, input s_axi_rready,
    output bit irq, output bit op_req_valid, output bit [7:0] op_req_index, input op_ack
);
    localparam int BYTES = W / 8, DEPTH = 512;

    bit [31:0] address_low, address_high, program_bytes;
    bit busy, done, error;
    wire [3:0] mode = address_high[11:8];
    wire [7:0] len = address_high[23:16];
    wire [31:0] beats = program_bytes / BYTES;
    wire [31:0] bursts = (beats + len) / (len + 1);
    wire [39:0] source = {8'b0, address_low};
    wire copy = mode inside {3, 9};
    wire reads = mode != 1 && mode != 6, writes = mode inside {1, 2, 3, 6, 8, 9};

    // Registers.
    assign s_axi_awready = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid;
    assign s_axi_wready = s_axi_awready;
    assign s_axi_arready = s_axi_arvalid && !s_axi_rvalid;
    assign s_axi_bresp = 0;
    assign s_axi_rresp = 0;
    bit [63:0] core_cycles;
    always @(posedge core_clk) if (busy) core_cycles <= core_cycles + 1;

    // Read side.
    bit [31:0] ar_sent, r_taken, aw_sent, w_sent, b_taken;
    bit [31:0] checksum[2];
    bit [31:0] bursts_back, out_of_turn;
    bit [W-1:0] fifo[DEPTH];
    wire [31:0] fifo_level = r_taken - w_sent, fifo_promised = ar_sent * (len + 1) - w_sent;
    assign m_axi_rready = busy;
    assign m_axi_bready = busy;
    wire ar_room = !copy || fifo_promised + 2 * (len + 1) <= DEPTH;

    // Write side.
    bit [7:0] w_beat;
    wire [31:0] w_started = aw_sent * (len + 1);
    wire w_have = copy ? fifo_level > 32'(m_axi_wvalid) : 1;
    wire [31:0] w_next = w_sent + 32'(m_axi_wvalid);

    always @(posedge mem_clk) begin
        if (s_axi_bvalid && s_axi_bready) s_axi_bvalid <= 0;
        if (s_axi_rvalid && s_axi_rready) s_axi_rvalid <= 0;
        if (s_axi_awready) begin
            s_axi_bvalid <= 1;
            case (s_axi_awaddr)
                12'h010: address_low <= s_axi_wdata;
                12'h014: address_high <= s_axi_wdata;
                12'h018: program_bytes <= s_axi_wdata;
                12'h008: begin
                    if (s_axi_wdata[0]) busy <= 1;
                    if (s_axi_wdata[2]) irq <= 0;
                end
                default: ;
            endcase
        end
        if (s_axi_arready) begin
            s_axi_rvalid <= 1;
            case (s_axi_araddr)
                12'h000: s_axi_rdata <= 32'h564F4C54;
                12'h004: s_axi_rdata <= 2;
                12'h00C: s_axi_rdata <= {16'b0, error ? 8'd3 : 8'd0, 5'b0, error, done && !error, busy};
                12'h01C: s_axi_rdata <= checksum[0];
                12'h020: s_axi_rdata <= checksum[1];
                12'h024: s_axi_rdata <= out_of_turn;
                12'h100: s_axi_rdata <= core_cycles[31:0];
                12'h104: s_axi_rdata <= core_cycles[63:32];
                default: s_axi_rdata <= 32'(s_axi_araddr);
            endcase
        end

        if (busy) begin
            // Addresses.
            if (m_axi_arvalid && m_axi_arready) m_axi_arvalid <= 0;
            if (mode == 7 && m_axi_arvalid && !m_axi_arready) m_axi_araddr <= m_axi_araddr + 64;
            if (reads && ar_sent < bursts && ar_room && (!m_axi_arvalid || m_axi_arready)) begin
                m_axi_arvalid <= 1;
                m_axi_arid <= address_high[12] ? {3'b0, ar_sent[0]} : 0;
                m_axi_araddr <= source + 40'(ar_sent * (len + 1) * BYTES) - (mode == 4 ? 64 : 0) + (mode == 8 || address_high[12] && ar_sent[0] ? 40'h100000 : 0);
                m_axi_arlen <= len;
                m_axi_arsize <= 3'($clog2(BYTES));
                m_axi_arburst <= mode == 5 ? 2 : 1;
                ar_sent <= ar_sent + 1;
            end
            if (m_axi_awvalid && m_axi_awready) m_axi_awvalid <= 0;
            if (writes && aw_sent < bursts && (!m_axi_awvalid || m_axi_awready)) begin
                m_axi_awvalid <= 1;
                m_axi_awaddr <= source + 40'(aw_sent * (len + 1) * BYTES) + 40'h100000;
                m_axi_awlen <= len;
                m_axi_awsize <= 3'($clog2(BYTES));
                m_axi_awburst <= 1;
                aw_sent <= aw_sent + 1;
            end
            // Data.
            if (m_axi_rvalid) begin
                fifo[r_taken % DEPTH] <= m_axi_rdata;
                r_taken <= r_taken + 1;
                checksum[m_axi_rid[0]] <= checksum[m_axi_rid[0]] * 31 + m_axi_rdata[31:0];
                bursts_back <= bursts_back + 32'(m_axi_rlast);
                out_of_turn <= out_of_turn + 32'(m_axi_rlast && address_high[12] && m_axi_rid[0] != bursts_back[0]);
                if (m_axi_rresp != 0) error <= 1;
            end
            if (m_axi_wvalid && m_axi_wready) begin
                m_axi_wvalid <= 0;
                w_sent <= w_sent + 1;
            end
            if (writes && w_next < w_started && w_have && (!m_axi_wvalid || m_axi_wready)) begin
                m_axi_wvalid <= 1;
                m_axi_wdata <= copy ? fifo[w_next % DEPTH] : {(W / 32) {w_next * 32'h9e3779b1}};
                m_axi_wstrb <= mode == 9 ? {(BYTES / 2) {2'b01}} : '1;
                m_axi_wlast <= mode == 6 ? w_beat + 1 == len : w_beat == len;
                w_beat <= w_beat == len ? 0 : w_beat + 1;
            end
            if (m_axi_bvalid) begin
                b_taken <= b_taken + 1;
                if (m_axi_bresp != 0) error <= 1;
            end
            if ((!reads || r_taken == bursts * (len + 1)) && (!writes || b_taken == bursts)) begin
                busy <= 0;
                done <= 1;
                irq <= 1;
            end
        end
        if (mem_rst) begin
            busy <= 0;
            irq <= 0;
        end
    end
endmodule
