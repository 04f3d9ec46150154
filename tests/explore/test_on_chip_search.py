"""Layers that keep activations on chip in the exploration: which may, what they move, and which tilings together are best, by brute force and on the RTL."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_up import conditions, model, space

import explore.tilings
from explore.chains import find_network, graph_links, table_chains, table_links
from explore.chunks import Case, Job, tasks_of
from explore.cli import cli
from explore.curves import CLOCKS_HZ
from explore.evaluate import QUANTITIES, Task, chip_laws, coefficients, evaluate, laws_at, layer_rows, search_all, total
from explore.exploration import cases_of
from explore.on_chip import FOUND, LEFT, STATES, choose_together
from explore.programs import predict_program
from explore.sweep import sweep
from fit.model import write_model
from hw.config import load_design
from hw.dram import load_dram_part
from hw.emit import emit
from hw.errors import ConfigError
from hw.isa import INSTRUCTION_BYTES, Opcode, decode
from hw.layers import LayerShape, load_network
from hw.lowering import LoweredLayer
from hw.network_compiler import compile_graph
from hw.on_chip import activation_words
from hw.onnx_import import import_onnx
from hw.sim.network import run_network
from hw.sim.run import build
from hw.tile_plan import Architecture, Tiling, plan

sys.path.append(str(Path(__file__).parent.parent / "hw"))
import onnx_models  # noqa: E402

VDD_V = np.array([0.6, 1.0])
SAME = {"kernel_h": 3, "kernel_w": 3, "pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1}
SHAPES = (
    LayerShape(name="wide", kind="conv", in_channels=8, out_channels=32, in_h=28, in_w=28, **SAME),
    LayerShape(name="depthwise", kind="conv", in_channels=32, out_channels=32, in_h=28, in_w=28, groups=32, **SAME),
    LayerShape(name="pointwise", kind="conv", in_channels=32, out_channels=16, in_h=28, in_w=28),
    LayerShape(name="last", kind="conv", in_channels=16, out_channels=24, in_h=28, in_w=28, **SAME),
)


def tasks_in_a_row(stored=(), batch=1):
    """`SHAPES` one after the other; the outputs of those in `stored` are needed in memory."""
    return [Task(shape=s, batch=batch, first=i == 0, found=int(i > 0), stored=s.name in stored or s is SHAPES[-1]) for i, s in enumerate(SHAPES)]


def several(**changes):
    """Architectures of one array whose banks hold nothing beside a layer, some layers beside some others, and everything."""
    sizes = {"activation_bank_bytes": [4096, 8192, 16384, 32768]}
    found = space(rows=[2], lanes=[8], multiplier_stages=[1], **sizes | changes).architectures()
    return found[found.by_array()[0]]


# Which layers are chains


def test_tables_say_which_layers_read_the_one_before():
    links = table_links(load_network("alexnet"))
    assert [link.found for link in links] == [0, 0, 0, 1, 1, 0, 1, 1]
    assert [link.stored for link in links] == [True, True, False, False, True, False, False, True]
    network = load_network("mobilenet_v2")
    links = dict(zip((layer.name for layer in network.layers), table_links(network), strict=True))
    assert links["block3.expand"] == (1, False) and links["block2.project"] == (1, True)  # which the sum behind block 3 reads too
    assert links["block4.expand"] == (0, False)  # it reads that sum
    assert {name for name, link in zip((x.name for x in load_network("bert_base").layers), table_links(load_network("bert_base")), strict=True) if link.found} \
        == {f"block{i}.projection" for i in range(1, 13)}  # fmt: skip
    for name in table_chains():
        assert sum(link.found for link in table_links(load_network(name))) == len(table_chains()[name].linked)
    other = load_network("alexnet").select(["conv1", "conv2", "conv3"], "other")
    with pytest.raises(ConfigError, match="network must be one whose layers' connections are known .*, not other; give the ONNX model"):
        table_links(other)


def test_an_onnx_model_says_it_itself(tmp_path):
    """Convolution, max pooling, convolution, add with what the convolution reads, global pooling, fully connected."""
    graph = import_onnx(onnx_models.residual(tmp_path / "Model 1.onnx"))
    assert graph_links(graph) == ((0, False), (1, True), (1, False), (1, False), (1, False), (1, True))
    compiled = compile_graph(load_design("medium"), graph)
    assert [bool(layer.on_chip) for layer in compiled.layers] == [bool(link.found) for link in graph_links(graph)]
    found = find_network(str(tmp_path / "Model 1.onnx"), on_chip=True)
    assert found.network.name == "model_1" and len(found.links) == 6 and find_network(str(tmp_path / "Model 1.onnx")).links == ()


def test_part_of_a_network_has_its_chains():
    both = cases_of(["alexnet_conv", "alexnet"], [1], on_chip=True)
    job = Job(model=None, space=None, cases=both, dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
    tasks, repeats = job.tasks()
    assert [task.shape.name for task in tasks] == [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7", "fc8"]  # conv3 to conv5 are one chain in both
    assert [task.found for task in tasks] == [0, 0, 0, 1, 1, 0, 1, 1] and repeats.tolist() == [[1] * 5 + [0] * 3, [1] * 8]
    resnet = cases_of(["resnet18"], [1], on_chip=True)
    tasks, repeats = Job(**vars(job) | {"cases": resnet}).tasks()
    assert sum(repeats[0]) == 21 and max(repeats[0]) == 2  # blocks whose two convolutions are alike are one chain of two
    assert tasks_of(resnet[0].whole.layers, 1, resnet[0].links)[2].found == 1


# What a layer moves


@pytest.mark.parametrize(("make", "design"), [("residual", "small"), ("residual", "medium"), ("mobilenet", "small"), ("mobilenet", "medium")])
def test_traffic_is_the_compiled_programs(make, design, tmp_path):
    """COPYs and SYNCs among the instructions included; writes to activation banks are the RTL's, below."""
    program = compile_graph(load_design(design), import_onnx(getattr(onnx_models, make)(tmp_path / "model.onnx")))
    predicted = predict_program(program, load_dram_part("lpddr3_1600_x32"), 2e-9, 1.25e-9, coefficients(model()))
    assert {one.on_chip for one in predicted} >= {"input", "output", "both"}
    code = [
        decode(program.image[segment.address - program.base_address + i * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES].tobytes())[0]
        for segment in program.segments for i in range(segment.instructions - 1)
    ]  # fmt: skip
    for layer, found in zip(program.layers, predicted, strict=True):
        own = code[layer.first_instruction : layer.first_instruction + layer.instructions]
        known, counted = found.traffic, program.traffic(layer)
        assert all(getattr(known, name) == getattr(counted, name) for name in known._fields if name != "activation_writes"), layer.name
        assert found.copies == own.count(Opcode.COPY), layer.name


# The best together


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_choices_along_a_chain_are_the_best_of_all(objective, monkeypatch):
    """Against every combination of the nodes that were timed, of which what fits is the compiler's rule."""
    seen, architectures, tasks = {}, several(acc_depth=[16]), tasks_in_a_row(stored=("depthwise",))[:3]
    tasks[-1] = Task(shape=SHAPES[2], batch=1, found=1)
    inner, rows_kind = explore.tilings.choose_together, explore.tilings.Rows

    def watch(*arguments):
        inner(*arguments)
        seen["arguments"] = arguments

    def keep(**fields):
        seen.setdefault("rows", fields)
        return rows_kind(**fields)

    monkeypatch.setattr(explore.tilings, "choose_together", watch)
    monkeypatch.setattr(explore.tilings, "Rows", keep)
    wanted = np.isin(np.arange(len(CLOCKS_HZ)), [4, 11])
    searched, lowered = search_all(model(), architectures, tasks, conditions(objective=objective), VDD_V, wanted)
    groups, bank, found, _, _, _, _, ordinary, best, row_of, costs, moved, tie, _, choice = seen["arguments"]
    tilings, layers = seen["rows"]["tilings"], [LoweredLayer(*(int(x) for x in row)) for row in lowered]
    kept, checked = 0, 0
    for g, (variant, structure) in enumerate(groups):
        index = int(np.flatnonzero(searched.group == g)[0])
        a = Architecture(*(int(x) for x in np.stack(architectures.numbers(), axis=1)[index]))
        assert a.activation_words == bank[variant]
        nodes = []
        for j, l in enumerate(layers):  # noqa: E741
            nodes.append([])
            for state in range(STATES):
                for u in ordinary[g, j] if state == 0 else best[g, j, state]:
                    if u >= 0:
                        row = row_of[u, structure, state]
                        t = Tiling(*(int(x) for x in tilings[row]))
                        nodes[-1].append((state, row, activation_words(a, l, plan(a, l, t), resident=bool(state & FOUND))))
        for clock in np.flatnonzero(wanted):
            least = [min(costs[row, clock] for state, row, _ in layer if state == 0) for layer in nodes]

            def cost(j, row, clock=clock, least=least):
                return least[j] * (1 + tie * np.trunc((costs[row, clock] / least[j] - 1) / tie)) if tie else costs[row, clock]

            def paths(j, before, so_far, a=a, nodes=nodes, cost=cost):
                if j == len(nodes):
                    if not before[0] & LEFT:
                        yield so_far
                    return
                for node in nodes[j]:
                    together = bool(node[0] & FOUND)
                    if together == bool(before and before[0] & LEFT) and (not together or before[2] + node[2] <= a.activation_words):
                        yield from paths(j + 1, node, (so_far[0] + cost(j, node[1]), so_far[1] + moved[node[1]], (*so_far[2], node)))

            best_path = min(paths(0, None, (0.0, 0.0, ())), key=lambda path: path[:2])
            chosen = [choice[g, j, clock] for j in range(len(layers))]
            ours = (sum(cost(j, row) for j, row in enumerate(chosen)), sum(moved[row] for row in chosen))
            assert ours == pytest.approx(best_path[:2], rel=1e-12), (g, clock)
            kept += sum(node[0] & FOUND > 0 for node in best_path[2])
            checked += 1
    assert checked == 2 * len(groups) and 0 < kept < 2 * checked  # in some banks, of some layers


def drawn_chain(random, layers=4, tilings=3):
    """(words [2, tilings], costs [tilings, STATES], moved, bank) of layers of so many tilings each, drawn so that what takes more room costs less."""
    words = random.integers(1, 10, (2, layers * tilings))
    costs = random.integers(1, 5, (layers * tilings, STATES)) + (10 - words[np.arange(STATES) & FOUND].T)
    return words, costs.astype(float), random.integers(1, 4, costs.shape).astype(float), int(random.integers(8, 20))


def least_of_all(words, costs, moved, bank, layers=4):
    """(cost, bytes) of the best of every combination of tilings and states of one chain; a bank without end leaves the rule of room out."""
    count, found = len(costs) // layers, []
    own = [[(tiling, state) for tiling in range(j * count, (j + 1) * count) for state in range(STATES)] for j in range(layers)]
    for path in itertools.product(*own):
        states = [state for _, state in path]
        if states[0] & FOUND or states[-1] & LEFT or any(bool(one & LEFT) != bool(two & FOUND) for one, two in itertools.pairwise(states)):
            continue
        used = [words[state & FOUND, tiling] for tiling, state in path]
        if all(used[j] + used[j + 1] <= bank for j in range(layers - 1) if states[j] & LEFT):
            found.append((sum(costs[node] for node in path), sum(moved[node] for node in path)))
    return min(found)


def test_layers_that_keep_activations_on_chip_have_room_together():
    """Against every combination, where each fits by itself and only the room that two neighbours take together forbids the cheapest."""
    random, forbidden = np.random.default_rng(7), 0
    for _ in range(12):
        words, costs, moved, bank = drawn_chain(random)
        tilings = np.arange(words.shape[1])
        by_layer = tilings.reshape(1, 4, -1)
        best = np.repeat(by_layer[:, :, None], STATES, axis=2).copy()
        best[:, 0, [FOUND, FOUND + LEFT]] = best[:, -1, [LEFT, FOUND + LEFT]] = -1  # nobody before the first, nobody behind the last
        choice = np.full((1, 4, 1), -1)
        choose_together(
            np.zeros((1, 2), dtype=np.int64), np.array([bank]), np.array([0, 1, 1, 1]), tilings, by_layer[:, :, 0].copy(), np.full((1, 4), 3), words,
            by_layer, best, np.arange(costs.size).reshape(-1, 1, STATES), costs.reshape(-1, 1), moved.ravel(), 0.0, np.array([True]), choice,
        )  # fmt: skip
        chosen = choice.ravel()
        assert (costs.ravel()[chosen].sum(), moved.ravel()[chosen].sum()) == least_of_all(words, costs, moved, bank)
        forbidden += least_of_all(words, costs, moved, bank) != least_of_all(words, costs, moved, np.inf)
    assert 3 < forbidden < 12  # the rule decides some of them


def network_totals(architectures, tasks, **given):
    """[architectures, points] sums over the tasks, by name."""
    hz = np.broadcast_to([100e6, 700e6], (len(architectures), 2))
    results = evaluate(model(), architectures, tasks, conditions(**given), VDD_V, hz, np.array([0, 1]))
    found = dict(zip(QUANTITIES, np.moveaxis(total(results, range(len(tasks))).values, -1, 0), strict=True))
    parts = ("core_energy_j", "memory_side_energy_j", "dram_core_energy_j", "dram_io_energy_j", "dram_phy_energy_j", "dram_background_energy_j")
    return found | {"energy_j": sum(found[name] for name in (*parts, "dram_refresh_energy_j")), "state": results.state}


def test_on_chip_pays_and_where_nothing_fits_nothing_changes():
    architectures = several()
    on_chip, apart = tasks_in_a_row(), [Task(shape=s, batch=1, first=i == 0) for i, s in enumerate(SHAPES)]
    bytes_ = {}
    for objective in ("latency", "energy"):
        ours, theirs = (network_totals(architectures, tasks, objective=objective) for tasks in (on_chip, apart))
        bytes_[objective] = ours["dram_read_bytes"] + ours["dram_write_bytes"], theirs["dram_read_bytes"] + theirs["dram_write_bytes"]
        if objective == "energy":
            assert (ours["energy_j"] <= theirs["energy_j"] * (1 + 2e-2)).all() and ours["energy_j"].sum() < 0.97 * theirs["energy_j"].sum()
        else:
            assert (ours["latency_s"] <= theirs["latency_s"] * (1 + 1e-2)).all() and ours["latency_s"].sum() < theirs["latency_s"].sum()
        nowhere = (ours["state"] == 0).all(axis=1)
        assert nowhere.any() and not nowhere.all() and (theirs["state"] == 0).all()
        for name in QUANTITIES:
            np.testing.assert_array_equal(ours[name][nowhere], theirs[name][nowhere])
        assert (bytes_[objective][0][~nowhere] < bytes_[objective][1][~nowhere]).all()
    largest = architectures.values["activation_bank_bytes"] == 32768
    assert (ours["state"][largest] == np.array([LEFT, FOUND + LEFT, FOUND + LEFT, FOUND])[None, :, None]).all()
    moved = network_totals(architectures[np.flatnonzero(largest)], on_chip, objective="energy")["dram_write_bytes"]
    assert (moved == 28 * 28 * 24).all()  # what the last layer makes


def test_sweeps_are_the_evaluation():
    """The fast path of whole spaces against the one with the parts, with layers on chip."""
    architectures, tasks, given = several(), tasks_in_a_row(stored=("wide",)), conditions()
    chip = chip_laws(laws_at(model(), architectures, given, VDD_V), given)
    searched, _ = search_all(model(), architectures, tasks, given, VDD_V)
    found = sweep(searched, layer_rows(searched.rows, given, coefficients(model()).dram, tasks), chip, given, np.ones((1, len(tasks)), dtype=int))
    results = evaluate(model(), architectures, tasks, given, VDD_V, 1 / chip.period_s, np.arange(2))
    np.testing.assert_allclose(found.latency_s[0], total(results, range(len(tasks))).values[..., 0], rtol=1e-12)
    np.testing.assert_allclose(found.core_energy_j[0], total(results, range(len(tasks))).values[..., 2], rtol=1e-9)
    assert (results.state > 0).any()
    alike = evaluate(model(), architectures, tasks, given, VDD_V, 1 / chip.period_s, np.arange(2), alike=True)
    assert (alike.tilings[:, :, 0] == alike.tilings[:, :, 1]).all() and (alike.state[:, :, 0] == alike.state[:, :, 1]).all()


# Against the RTL


@pytest.mark.parametrize("on_chip", [False, True])
def test_a_whole_network_on_the_rtl(on_chip, tmp_path):
    """Expand, depthwise, project, add, pooling: bytes and instructions exactly, cycles within the model's errors."""
    graph, part = import_onnx(onnx_models.mobilenet(tmp_path / "model.onnx")), load_dram_part("lpddr3_1600_x32")
    config = load_design("small")
    program, simulator = compile_graph(config, graph, on_chip=on_chip), build(verilog=emit(config, tmp_path).verilog, axi_data_bits=config.memory.axi_data_bits)
    inputs = {graph.inputs[0]: np.random.default_rng(1).integers(-128, 128, (graph.batch, *graph.tensors[graph.inputs[0]].shape))}
    run = run_network(simulator, program, inputs, core_period_ps=2000, mem_period_ps=1250, timeout_cycles=1_000_000, memory=part)
    events = [segment.events for segment in run.segments if segment is not None]
    predicted = predict_program(program, part, 2e-9, 1.25e-9, coefficients(model()))
    (counted,) = events
    assert counted["dram_write_bytes"] == sum(one.traffic.output_write_bytes for one in predicted)
    assert counted["dram_read_bytes"] == sum(one.read_bytes for one in predicted) + INSTRUCTION_BYTES  # END
    for name in ("activation_writes", "activation_reads", "output_writes"):
        assert counted[name] == sum(getattr(one.traffic, name) for one in predicted), name
    assert (sum(one.copies for one in predicted) > 0) == on_chip
    assert sum(one.cycles for one in predicted) == pytest.approx(counted["core_cycles"], rel=0.1)


# The commands


def test_commands_keep_to_it(tmp_path, monkeypatch):
    import explore.exploration as exploration
    from explore.front_points import read_front
    from explore.points import read_run
    from explore.report_schedules import explored_schedules

    monkeypatch.setattr(exploration, "load_space", lambda _: space(rows=[2], lanes=[8], activation_bank_bytes=[32768]))
    write_model(model(), tmp_path / "model.json")
    same = ["--model", str(tmp_path / "model.json"), "--technology", "synthetic"]
    arguments = ["explore", *same, "--out", str(tmp_path), "--workers", "1", "--network", "alexnet", "--batch", "1"]
    layers = {}
    for option in ("--on-chip", "--no-on-chip"):
        result = CliRunner().invoke(cli, [*arguments, option])
        assert result.exit_code == 0, result.output
        assert read_run(tmp_path)["on_chip"] is (option == "--on-chip")
        table = exploration.pd.read_csv(tmp_path / "layers.csv", keep_default_na=False).drop_duplicates("layer")
        layers[option] = dict(zip(table["layer"], table["on_chip"], strict=True))
        if option == "--on-chip":
            assert len(explored_schedules(tmp_path, tmp_path / "model.json"))
            with pytest.raises(ConfigError, match="exploration must be one in which every layer goes through DRAM"):
                read_front(tmp_path, tmp_path / "model.json")
    assert set(layers["--no-on-chip"].values()) == {"none"} and [layers["--on-chip"][name] for name in ("conv1", "fc6", "fc7", "fc8")] == \
        ["none", "output", "both", "input"]  # fmt: skip
    with pytest.raises(ConfigError, match="on-chip must not be given with --simulate"):
        CliRunner().invoke(cli, ["schedule", "--design", "small", "--network", "alexnet", "--on-chip", "--simulate", "1"], catch_exceptions=False)
    assert Case(network=load_network("alexnet"), whole=load_network("alexnet"), batch=1).links == ()
