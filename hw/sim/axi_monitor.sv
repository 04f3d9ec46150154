// Watches one AXI4 port, both directions, and reports the first breach of the protocol. It never drives anything.
//
// An AXI4-Lite port is one of single beats: tie the lengths, ids and sizes, and WLAST and RLAST to 1.
// The rules are those of AMBA AXI and ACE Protocol Specification, IHI 0022: A3.2 (handshakes), A3.4 (bursts,
// WLAST, RLAST, one response a transaction, in order within one id), A7.2 (no EXOKAY without an exclusive access).
`timescale 1ps / 1ps

module axi_monitor #(
    parameter string NAME = "AXI",
    parameter int BYTES = 8
) (
    input bit clk, rst,
    input bit [3:0] arid, input bit [39:0] araddr, input bit [7:0] arlen, input bit [2:0] arsize, input bit [1:0] arburst,
    input bit arvalid, arready,
    input bit [3:0] rid, input bit [BYTES*8-1:0] rdata, input bit [1:0] rresp, input bit rlast, rvalid, rready,
    input bit [3:0] awid, input bit [39:0] awaddr, input bit [7:0] awlen, input bit [2:0] awsize, input bit [1:0] awburst,
    input bit awvalid, awready,
    input bit [BYTES*8-1:0] wdata, input bit [BYTES-1:0] wstrb, input bit wlast, wvalid, wready,
    input bit [3:0] bid, input bit [1:0] bresp, input bit bvalid, bready
);
    import "DPI-C" function void axi_violation(input string text);

    localparam int ADDRESS = 4 + 40 + 8 + 3 + 2, WRITE = BYTES * 9 + 1, READ = 4 + BYTES * 8 + 3, RESPONSE = 6;

    function automatic void violation(string text);
        axi_violation({NAME, ": ", text});
    endfunction

    // --- what was on each channel at the last edge, if it was refused -----------------------------
    bit ar_waits, aw_waits, w_waits, r_waits, b_waits, was_reset;
    bit [ADDRESS-1:0] ar_was, aw_was;
    bit [WRITE-1:0] w_was;
    bit [READ-1:0] r_was;
    bit [RESPONSE-1:0] b_was;
    wire [ADDRESS-1:0] ar = {arid, araddr, arlen, arsize, arburst}, aw = {awid, awaddr, awlen, awsize, awburst};
    wire [WRITE-1:0] w = {wdata, wstrb, wlast};
    wire [READ-1:0] r = {rid, rdata, rresp, rlast};
    wire [RESPONSE-1:0] b = {bid, bresp};

    function automatic void stable(string channel, bit waits, bit valid, bit same);
        if (waits && !valid) violation({channel, "VALID fell before the transfer was accepted"});
        else if (waits && !same) violation({channel, " payload changed while it waited to be accepted"});
    endfunction

    // --- open transactions ------------------------------------------------------------------------
    int reads[16][$];     // of each id, beats of each burst still to come
    int write_beats[$];   // beats of each burst whose data is not complete
    int write_ids[$];     // ids of the same
    int surplus[$];       // beats of bursts whose data came before their address
    int beats_sent;       // of the burst under way
    int to_answer[16];    // of each id, complete writes without a response

    function automatic void check_burst(string channel, bit [39:0] address, bit [7:0] length, bit [2:0] size, bit [1:0] burst);
        automatic int bytes = (int'(length) + 1) * BYTES;
        automatic string what = $sformatf("%s burst at 0x%0h of %0d bytes ", channel, address, bytes);
        if (burst != 1) violation({what, $sformatf("must be INCR, not burst type %0d", burst)});
        if ((1 << size) != BYTES) violation({what, $sformatf("must have full-width beats, not size %0d", size)});
        if (address % 40'(BYTES) != 0) violation({what, $sformatf("must start at a multiple of %0d", BYTES)});
        if (int'(address[11:0]) + bytes > 4096) violation({what, "crosses a 4 KB boundary"});
    endfunction

    function automatic void close_write();
        automatic int sent = surplus.pop_front(), due = write_beats.pop_front(), id = write_ids.pop_front();
        if (sent != due) violation($sformatf("WLAST must come with beat %0d, not with beat %0d", due, sent));
        to_answer[id]++;
    endfunction

    always @(posedge clk) begin
        was_reset <= rst;
        if (rst) begin
            if (was_reset && (arvalid || awvalid || wvalid || rvalid || bvalid)) violation("VALID must be low during reset");
            {ar_waits, aw_waits, w_waits, r_waits, b_waits} <= 0;
        end else begin
            stable("AR", ar_waits, arvalid, ar == ar_was);
            stable("AW", aw_waits, awvalid, aw == aw_was);
            stable("W", w_waits, wvalid, w == w_was);
            stable("R", r_waits, rvalid, r == r_was);
            stable("B", b_waits, bvalid, b == b_was);
            ar_waits <= arvalid && !arready;
            aw_waits <= awvalid && !awready;
            w_waits <= wvalid && !wready;
            r_waits <= rvalid && !rready;
            b_waits <= bvalid && !bready;
            ar_was <= ar;
            aw_was <= aw;
            w_was <= w;
            r_was <= r;
            b_was <= b;

            // Responses first: they answer requests of earlier edges.
            if (rvalid && !r_waits) begin
                if (reads[rid].size() == 0) violation($sformatf("read data with id %0d must answer a request, and none is open", rid));
                else if (rlast != (reads[rid][0] == 1)) violation($sformatf("RLAST must come with a burst's last beat, of which %0d are due", reads[rid][0]));
                if (rresp == 1) violation("RRESP must not be EXOKAY");
            end
            if (rvalid && rready && reads[rid].size() != 0) begin
                if (reads[rid][0] == 1) void'(reads[rid].pop_front());
                else reads[rid][0]--;
            end
            if (bvalid && !b_waits) begin
                if (to_answer[bid] == 0) violation($sformatf("write response with id %0d must follow a complete write, and none is open", bid));
                if (bresp == 1) violation("BRESP must not be EXOKAY");
            end
            if (bvalid && bready && to_answer[bid] != 0) to_answer[bid]--;

            if (arvalid && arready) begin
                check_burst("read", araddr, arlen, arsize, arburst);
                reads[arid].push_back(int'(arlen) + 1);
            end
            if (awvalid && awready) begin
                check_burst("write", awaddr, awlen, awsize, awburst);
                write_beats.push_back(int'(awlen) + 1);
                write_ids.push_back(int'(awid));
            end
            if (wvalid && wready) begin
                if (wlast) surplus.push_back(beats_sent + 1);
                beats_sent = wlast ? 0 : beats_sent + 1;
            end
            while (surplus.size() != 0 && write_beats.size() != 0) close_write();
            if (surplus.size() == 0 && write_beats.size() != 0 && beats_sent >= write_beats[0])
                violation($sformatf("WLAST must come with beat %0d, and did not", write_beats[0]));
        end
    end
endmodule
