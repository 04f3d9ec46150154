// Drives axi_monitor with one of many short bus histories, chosen by +breach=<name>: legal, or with one breach of the protocol.
`timescale 1ps / 1ps

module broken_bus;
    bit clk, rst = 1;
    bit [3:0] arid, rid, awid, bid;
    bit [39:0] araddr, awaddr;
    bit [7:0] arlen, awlen;
    bit [2:0] arsize = 2, awsize = 2;
    bit [1:0] arburst = 1, awburst = 1, rresp, bresp;
    bit arvalid, arready, rlast, rvalid, rready, awvalid, awready, wlast, wvalid, wready, bvalid, bready;
    bit [31:0] rdata, wdata;
    bit [3:0] wstrb = '1;
    axi_monitor #(.NAME("BUS"), .BYTES(4)) monitor (.*);
    always #5 clk = !clk;

    string breach;
    function automatic bit is(string name);
        return breach == name;
    endfunction

    // One edge with what was set before it, then all valids low.
    task automatic edges(int count = 1);
        repeat (count) @(negedge clk);
    endtask
    task automatic idle();
        {arvalid, rvalid, awvalid, wvalid, bvalid, arready, rready, awready, wready, bready} = 0;
        edges();
    endtask

    // An offer refused once and then taken; the breach is made while it waits.
    task automatic read_address(bit [3:0] id, bit [39:0] address, bit [7:0] length);
        arid = id; araddr = address; arlen = length; arvalid = 1; arready = 0;
        edges();
        if (is("AR falls")) arvalid = 0;
        if (is("AR changes")) araddr += 4;
        arready = 1;
        edges();
        idle();
    endtask
    task automatic write_address(bit [3:0] id, bit [39:0] address, bit [7:0] length);
        awid = id; awaddr = address; awlen = length; awvalid = 1; awready = 0;
        edges();
        if (is("AW falls")) awvalid = 0;
        if (is("AW changes")) awlen += 1;
        awready = 1;
        edges();
        idle();
    endtask
    task automatic write_beat(bit last);
        wlast = last; wvalid = 1; wready = 0;
        edges();
        if (is("W falls")) wvalid = 0;
        if (is("W data changes")) wdata++;
        if (is("WSTRB changes")) wstrb = 7;
        wready = 1;
        edges();
        idle();
    endtask
    task automatic read_beat(bit [3:0] id, bit last);
        rid = id; rlast = last; rvalid = 1; rready = 0;
        edges();
        if (is("R falls")) rvalid = 0;
        if (is("R changes")) rdata++;
        rready = 1;
        edges();
        idle();
    endtask
    task automatic response(bit [3:0] id);
        bid = id; bvalid = 1; bready = 0;
        edges();
        if (is("B falls")) bvalid = 0;
        if (is("B changes")) bresp = 2;
        bready = 1;
        edges();
        idle();
    endtask

    initial begin
        void'($value$plusargs("breach=%s", breach));
        if (is("valid in reset")) arvalid = 1;
        edges(4);
        rst = 0;
        idle();
        if (is("WRAP")) arburst = 2;
        if (is("narrow beats")) awsize = 1;
        if (is("EXOKAY for a read")) rresp = 1;
        if (is("EXOKAY for a write")) bresp = 1;

        read_address(0, is("read crosses 4 KB") ? 'hff8 : is("not aligned") ? 'h1002 : 'hff4, 2);
        read_address(1, 'h2000, 0);
        if (is("no request")) read_beat(2, 1);
        read_beat(0, 0);
        read_beat(1, 1);  // another id may come between
        if (is("one beat too many")) read_beat(1, 1);
        read_beat(0, is("RLAST early"));
        if (!is("RLAST early")) read_beat(0, !is("RLAST missing"));

        if (is("response before the address")) response(3);
        write_beat(0);  // data may come before its address
        write_address(3, is("write crosses 4 KB") ? 'hffc : 'hff8, 1);
        if (is("response before the data")) response(3);
        write_beat(!is("WLAST missing"));
        if (is("WLAST missing")) write_beat(1);
        if (is("other id")) response(2);
        response(3);
        if (is("two responses")) response(3);
        write_address(0, 0, 3);
        write_beat(0);
        write_beat(is("WLAST early"));
        write_beat(0);
        write_beat(1);
        response(0);
        $finish;
    end
endmodule
