"""The structure of `src/headway`: imports without circles, one name for one class, sizes, and a test for each file.

Each rule has a list of the places that depart from it.  An entry is a pair of a place and a reason, and must be true:
an entry whose place no longer departs fails, so that the lists can only shrink.
"""

import ast
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "headway"
TESTS = Path(__file__).parent
MOST_IMPORTS, MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS, FEWEST_LINES_OF_LOGIC = 15, 400, 60, 8, 25

CIRCLES: dict[str, str] = {}
FAN_OUT: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS: dict[str, str] = {
    "headway.protocol.reports.Reports.__init__": "a table: one parameter for each of its columns, all with a default",
}
SAME_MODULE_NAMES: dict[str, str] = {}
SUITES: dict[str, str] = {
    "advice/test_advise.py": "advice.findings advice.plan advice.probe cli.advise_command",
    "attacks/test_attacked_engine.py": "attacks.crafting attacks.kept_rows",
    "attacks/test_attacks.py": "attacks.attack attacks.colluding attacks.poisoned_data",
    "audit/test_auditing.py": ("audit.audit_page audit.audit_result audit.dense_attack audit.picture_grid"),
    "audit/test_canaries.py": ("audit.canary_attack audit.canary_section audit.canary_trainer"),
    "audit/test_dense_inversion.py": "audit.feature_inversion",
    "audit/test_gradient_inversion.py": "audit.gradient_attack",
    "audit/test_membership.py": "audit.membership_attack",
    "audit/test_shadow_federation.py": "audit.shadow_clients",
    "cases/test_few_clients.py": "experiment.population",
    "cases/test_going_on.py": "experiment.identity observe.run_folder",
    "cases/test_statistics.py": "model.blame",
    "cases/test_trouble.py": "engines.processes.worker",
    "cli/test_attack_command.py": "cli.attack_options reports.attack_tables",
    "cli/test_audit_command.py": "cli.audit_options",
    "cli/test_compare_command.py": "cli.comparison_output cli.method_files cli.trial_progress experiment.trials",
    "cli/test_join_command.py": "federation.agent.agent_check",
    "cli/test_mistakes.py": "core.errors experiment.key_paths",
    "cli/test_partition_command.py": "reports.partition_picture",
    "cli/test_privacy_command.py": "cli.privacy_options cli.privacy_plan cli.privacy_verify",
    "cli/test_report_command.py": "reports.assemble reports.naming",
    "cli/test_run_command.py": "cli.explain_command cli.export_command cli.header cli.list_command cli.main",
    "cli/test_run_drift.py": "observe.progress",
    "cli/test_run_page.py": "federation.operations.run_facts federation.operations.run_watch",
    "cli/test_schema_command.py": "cli.federation_commands",
    "cli/test_verify_command.py": "federation.spool.receipts_route",
    "client_state/test_store_model.py": "client_state.commit_flags",
    "client_state/test_tensor_table.py": "client_state.shared_memory",
    "core/test_algorithm.py": "core.update",
    "core/test_refusals.py": "core.chain core.context",
    "data/test_class_names.py": "data.dataset.target_summary",
    "data/test_client_index.py": "data.sources.mapped",
    "data/test_columns.py": "data.dataset.owners data.sources.table_fields",
    "data/test_federated.py": "data.dataset.checks data.dataset.examples",
    "data/test_files.py": "data.sources.npz data.sources.table_pool data.sources.tables",
    "data/test_loading.py": "data.sources.packaged data.sources.torch_datasets",
    "data/test_partition.py": (
        "data.partition.allocation data.partition.by_label data.partition.by_size data.partition.neighbours"
    ),
    "data/test_remote.py": "data.dataset.client_data",
    "data/test_schema_table.py": "data.sources.schema_loading data.sources.schema_sample data.sources.schema_values",
    "data/test_shift.py": "data.shift.image_shifts data.shift.shifting data.shift.shifts data.shift.table_shifts",
    "data/test_skew.py": "data.skew.distance",
    "data/test_split_batches.py": "data.dataset.batches",
    "data/test_synthetic.py": "data.sources.example_pool",
    "data/test_table_schema.py": "data.sources.data_schema data.sources.source_schema",
    "engines/test_devices_in_runs.py": "engines.autotune.gpu_memory engines.client_execution",
    "engines/test_fallbacks.py": "engines.executors.batched",
    "engines/test_fleet.py": "engines.virtual_clock.device_availability",
    "engines/test_local.py": "engines.executors.sequential engines.local_clients engines.planned_engine",
    "engines/test_planner.py": "engines.autotune.batch_trial engines.planned_execution",
    "engines/test_preflight.py": "engines.executors.client_setup",
    "engines/test_process_engine.py": (
        "engines.processes.arrays engines.processes.process_pool engines.processes.shared_arrays engines.worker_pool"
    ),
    "engines/test_ray_engine.py": (
        "engines.ray.cluster engines.ray.ray_pool engines.ray.ray_worker engines.ray.worker_job"
    ),
    "engines/test_replicated_state.py": "engines.ray.state_replica",
    "experiment/test_grid_result.py": "reports.attack_picture",
    "reports/test_attack_page.py": "reports.page.heat_map",
    "protocol/test_reputation.py": "federation.agent.job_building",
    "experiment/test_comparison.py": "client.evaluation experiment.baselines experiment.grid_search",
    "experiment/test_runfile.py": (
        "experiment.algorithm_section experiment.overrides experiment.resolved_runfile "
        "experiment.runfile_check experiment.runfile_schema experiment.runfile_text experiment.task_section "
        "model.zoo"
    ),
    "experiment/test_user_modules.py": "core.own_code",
    "federation/operations/test_live_page.py": "federation.operations.live_sections federation.operations.status_text",
    "federation/operations/test_page_server.py": "federation.operations.status_pages",
    "federation/operations/test_status_board.py": "federation.operations.status_history",
    "federation/relay/test_relay.py": "federation.relay.relay_answering federation.relay.relay_desk",
    "federation/serving/test_network_engine.py": (
        "federation.serving.gathering federation.serving.http_bodies "
        "federation.serving.http_server "
        "federation.serving.job_desk federation.serving.network_training "
        "federation.serving.request_channel federation.serving.server_setup federation.serving.training_round"
    ),
    "federation/agent/test_agent.py": (
        "federation.agent.agent_job federation.agent.agent_log federation.agent.agent_memory "
        "federation.agent.agent_store federation.agent.answering "
        "federation.agent.machine_limits federation.agent.own_data federation.agent.training_thread "
        "federation.agent.task_building federation.agent.whole_files"
    ),
    "federation/spool/test_run_check.py": (
        "federation.spool.manifest federation.spool.manifest_folder federation.spool.replay_setup "
        "federation.spool.round_replay"
    ),
    "federation/test_server.py": (
        "federation.job_clients federation.job_record "
        "federation.job_stores federation.served_job federation.server_job federation.server_log"
    ),
    "model/test_models_not_plain.py": "model.module_checks model.personal_model",
    "model/test_shapes.py": "model.broadcasting model.losses",
    "model/test_target_scale.py": "experiment.target_scaling",
    "model/test_task.py": "model.flat_module",
    "numerics/test_keys.py": "numerics.counters",
    "observe/test_alarms.py": "observe.client_clusters",
    "observe/test_drift.py": "observe.journal",
    "privacy/test_accountant.py": "privacy.gaussian_epsilon privacy.renyi",
    "privacy/test_ledger.py": "privacy.terms",
    "protocol/test_reports.py": "observe.round_report protocol.messages",
    "reports/test_page.py": (
        "observe.text reports.page.bars reports.page.charts reports.page.components "
        "reports.page.journal_reader reports.page.label_holdings reports.page.matrix reports.page.page_parts "
        "reports.page.per_client "
        "reports.page.provenance reports.page.round_sections reports.run_reader"
    ),
    "reports/test_timeline.py": "numerics.units",
    "run/test_resume.py": "client_state.sqlite_versions experiment.checkpointer",
    "run/test_whole_runs.py": "experiment.evaluator experiment.federation experiment.round_driver experiment.run",
    "samplers/test_draws.py": (
        "samplers.availability samplers.drawing samplers.poisson samplers.power_of_choice samplers.uniform"
    ),
    "server/test_grouped_sum.py": "server.group_summer",
    "stages/robust/test_robust_rules.py": (
        "numerics.order_statistics stages.robust.central_points stages.robust.krum"
        " stages.robust.pre_aggregation stages.robust.rule_facts stages.robust.subset_rules"
    ),
    "stages/privacy/test_gaussian.py": "stages.privacy.noise_grid",
    "test_conformance.py": "core.stage stages.aggregators.mean stages.local_rules stages.normalisation",
    "test_engines_agree.py": "engines.engine engines.group_runner engines.pooled server.collector",
    "test_registries.py": "data.sources.source_registry",
    "training/test_dp_sgd.py": (
        "training.clipped_gradients training.example_privacy training.gradient_noise training.layer_gradients "
        "training.layer_rules training.per_example_gradients training.private_loop vectorized.batched_privacy"
    ),
    "training/test_local_sgd.py": (
        "client.client_algorithm client.client_training training.local_loop training.loop_trainer "
        "training.sgd_options training.single_example training.step_rules training.update_rule"
    ),
    "training/test_trainer.py": "training.call_trace",
    "vectorized/test_batched_sgd.py": "vectorized.batch_schedule vectorized.gradient_functions",
    "vectorized/test_low_rank.py": "engines.executors.low_rank_executor vectorized.low_rank_layers",
}
"""Suites, and the files without a test file of their name that each of them covers."""


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = ("headway", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@functools.cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(FILES[module].read_text())


def imported(module: str) -> Iterator[str]:
    """Modules of the package that a file imports, in functions and under TYPE_CHECKING as well."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in FILES:
                name = name.rpartition(".")[0]
            if name and name != module:
                yield name


@functools.cache
def graph() -> dict[str, frozenset[str]]:
    """For each module the modules that it imports; a package's own `__init__` is loaded with it and does not count."""

    def counts(module: str, other: str) -> bool:
        return not (FILES[other].name == "__init__.py" and module.startswith(f"{other}."))

    return {module: frozenset(other for other in imported(module) if counts(module, other)) for module in FILES}


def circles(edges: dict[str, frozenset[str]]) -> list[list[str]]:
    """Sets of modules that import each other (Tarjan's strongly connected components of two and more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(edges[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            circle = [stack.pop()]
            while circle[-1] != module:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return found


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method of the package with its qualified name."""

    def inside(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}.{child.name}", child
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            yield from inside(child, f"{name}.{child.name}" if named else name)

    for module in FILES:
        yield from inside(tree_of(module), module)


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether typer calls the function: its parameters are the options of a command, as in `federation_commands`."""
    return any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


def agree(departures: dict[str, object], listed: dict[str, str], rule: str) -> None:
    """Asserts that what departs from a rule is what is listed, each with a reason."""
    new = {place: what for place, what in departures.items() if place not in listed}
    assert not new, f"{rule}: {new}"
    mended = sorted(set(listed) - set(departures))
    assert not mended, f"no longer departs, so take it off the list of {rule!r}: {mended}"
    assert all(reason.strip() for reason in listed.values())


def test_circles_are_found():
    edges = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("ad")}
    assert circles(edges) == [["b", "c"]]


def test_files_do_not_import_each_other_in_circles():
    departures = {circle[0]: circle for circle in circles(graph())}
    agree(departures, CIRCLES, "imports have no circles")


def test_a_class_name_stands_for_one_class():
    places = defaultdict(list)
    for module in FILES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    agree({name: where for name, where in places.items() if len(where) > 1}, {}, "a class name is used once")


def test_a_module_name_stands_for_one_module():
    counted = Counter(path.stem for path in FILES.values() if not path.stem.startswith("__"))
    departures = {name: count for name, count in counted.items() if count > 1}
    agree(departures, SAME_MODULE_NAMES, "a module name is used once")


def test_a_file_imports_few_others():
    departures = {module: len(others) for module, others in graph().items() if len(others) > MOST_IMPORTS}
    agree(departures, FAN_OUT, f"a file imports at most {MOST_IMPORTS} others")


def test_files_are_short():
    lines = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    departures = {module: count for module, count in lines.items() if count > MOST_LINES}
    agree(departures, LONG_FILES, f"a file has at most {MOST_LINES} lines")


def test_functions_are_short():
    lines = {name: node.end_lineno - node.lineno + 1 for name, node in functions() if node.end_lineno}
    departures = {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION}
    agree(departures, LONG_FUNCTIONS, f"a function has at most {MOST_LINES_OF_A_FUNCTION} lines")


def test_functions_have_few_parameters():
    departures = {}
    for name, node in functions():
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > MOST_PARAMETERS and not is_command(node) and not name.startswith("headway.cli.federation_commands."):
            departures[name] = count
    agree(departures, MANY_PARAMETERS, f"a function has at most {MOST_PARAMETERS} parameters")


def test_only_packages_and_recipes_stand_at_the_top():
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py", "recipes.py"}


def has_logic(module: str) -> bool:
    """Whether a file has functions of some length, so that a test of its own is due."""
    nodes = [node for node in ast.walk(tree_of(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lines = sum((node.end_lineno or 0) - node.lineno + 1 for node in nodes)
    return not FILES[module].stem.startswith("__") and lines >= FEWEST_LINES_OF_LOGIC


def own_test(module: str) -> bool:
    """Whether a test file of the module's room bears its name: `tests/a/test_c.py` for `a/c.py` and `a/b/c.py`."""
    _, *rooms, name = module.split(".")
    folders = [TESTS.joinpath(*rooms[:depth]) for depth in range(len(rooms) + 1)]
    names = [name, *(f"{room}_{name}" for room in rooms)]
    return any((folder / f"test_{name}.py").exists() for folder in folders for name in names)


def test_each_file_with_logic_has_a_test():
    listed = {f"headway.{name}": suite for suite, names in SUITES.items() for name in names.split()}
    departures = {module: "no test file of its name" for module in FILES if has_logic(module) and not own_test(module)}
    agree(departures, listed, "a file with logic has a test of its name, or is listed with the suite that covers it")


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_suites_that_cover_others_exist(suite):
    assert "def test_" in (TESTS / suite).read_text()
