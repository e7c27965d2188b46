"""The grid of rules, attacks and partitions."""

from dataclasses import replace

import pytest

import headway as hw
from headway.attacks import SignFlip
from headway.core.errors import ConfigError
from headway.experiment.attack_grid_section import ATTACKS, MEAN, NO_ATTACK, RULES, AttackGridSection
from headway.experiment.grid_result import Cell
from headway.experiment.robust_grid import (
    Setting,
    grid_cells,
    grid_file,
    grid_plan,
    partition_of,
    rule_of,
    settings_of,
)
from headway.experiment.runfile import load_runfile

ECGR = {"stage": "ECGR"}
FILE = """
[run]
rounds = 2
[data]
source = "hospitals"
[model]
name = "logistic"
[algorithm]
chain = [{ stage = "Mean", over = "clients" }]
trainer = { trainer = "LocalSGD", lr = 0.1 }
sampler = { sampler = "All" }
"""


def test_a_rule_is_made_from_its_name():
    assert rule_of("Krum", 3) == hw.Krum(3)
    assert rule_of("NNM+TrimmedMean", 2) == hw.NNM(2, hw.TrimmedMean(2))
    assert rule_of("NNM+AdaptiveRobustClipping+Median", 1) == hw.NNM(1, hw.AdaptiveRobustClipping(1, hw.Median(1)))
    assert rule_of("NNM:f=2+NormBound:norm=0.5", 1) == hw.NNM(2, hw.NormBound(0.5))
    assert all(rule_of(name, 1).whole_cohort for name in RULES if name != MEAN)
    with pytest.raises(ConfigError, match=r"no robust rule named 'Krumm'.*Krum"):
        rule_of("Krumm", 1)
    with pytest.raises(ConfigError, match="no robust rule named 'Mean'"):
        rule_of("Mean", 1)
    with pytest.raises(ConfigError, match="Median cannot stand before another rule"):
        rule_of("Median+Krum", 1)
    with pytest.raises(ConfigError, match=r"CentredClipping has no number 'tua' \(did you mean 'tau'"):
        rule_of("CentredClipping:tua=1", 1)


def test_a_partition_is_read_from_the_command_line():
    assert partition_of("iid") == {"kind": "iid"}
    assert partition_of("shards:per_client=2") == {"kind": "shards", "per_client": 2}
    with pytest.raises(ConfigError, match="alpha needs a number, found 'small'"):
        partition_of("dirichlet-niid:alpha=small")


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    return load_runfile(str(path))


def test_a_cell_changes_the_rule_the_attack_and_the_setting(base):
    known = AttackGridSection(knows="attackers", from_round=2)
    setting = Setting({"kind": "iid"}, (hw.ECGR(),))
    made = grid_file(base, Cell("NNM+Krum", "SignFlip:scale=2", "x"), setting, 2, known)
    assert made.algorithm.chain.stages == (hw.ECGR(), hw.NNM(2, hw.Krum(2)))
    plan = made.sections.attack.plan()
    assert (plan.attack, plan.count, plan.knows, plan.from_round) == (SignFlip(2.0), 2, "attackers", 2)
    assert made.sections.data.partition == {"kind": "iid"}
    plain = grid_file(base, Cell(MEAN, NO_ATTACK, "x"), Setting(), 2, AttackGridSection())
    assert plain == base
    assert "attack_grid" not in plain.to_toml()
    with pytest.raises(ConfigError, match="attack named 'SignFlp'"):
        grid_plan(base, AttackGridSection(attacks=["SignFlp"]), base.load_data())


def test_what_the_file_cannot_have_is_left_out_with_the_reason(base):
    section = AttackGridSection(rules=[MEAN, "Bulyan"], attacks=[NO_ATTACK, "Backdoor:target=7", "Backdoor"])
    plan = grid_plan(base, section, base.load_data())
    assert [(cell.rule, cell.attack) for cell in plan.cells] == [(MEAN, NO_ATTACK), (MEAN, "Backdoor")]
    backdoor, bulyan = plan.left_out
    assert backdoor.startswith("Backdoor:target=7 is left out: Backdoor.target is 7, but")
    assert bulyan.startswith("Bulyan is left out: ")
    probe = plan.probes[Cell(MEAN, NO_ATTACK, "as in the file").method]
    assert list(probe.backdoors) == ["Backdoor"]
    with pytest.raises(ConfigError, match="no rule can be used"):
        grid_plan(base, AttackGridSection(rules=["Bulyan"]), base.load_data())


def test_a_rule_that_needs_clients_of_a_name_is_left_out_where_there_are_none(base):
    rules = [MEAN, "FLTrust", "LossValidation", "MajorityVote"]
    plan = grid_plan(base, AttackGridSection(rules=rules, attacks=[NO_ATTACK, "SignFlip"]), base.load_data())
    assert {cell.rule for cell in plan.cells} == {MEAN}
    assert len(plan.runfiles) == 2
    for note, why in zip(plan.left_out, ("root is 'root'", "root is 'root'", "groups of 3 replicas"), strict=True):
        assert "is left out: " in note
        assert why in note


def test_the_row_of_the_mean_is_a_mean_where_the_file_has_a_robust_rule(base):
    def stages(*links):
        file = replace(base, algorithm=replace(base.algorithm, chain=hw.chain(*links)))
        return grid_file(file, Cell(MEAN, NO_ATTACK, "x"), Setting(), 2, AttackGridSection()).algorithm.chain.stages

    assert stages(hw.ClientMomentum(), hw.Krum()) == (hw.ClientMomentum(), hw.Mean("clients"))
    assert stages(hw.Mean("examples")) == (hw.Mean("examples"),)


def test_a_chain_that_encodes_updates_is_refused_and_no_rule_is_said_to_diverge(base):
    links = hw.chain(hw.Clip(), hw.Quantize(bits=16), hw.Mean("clients"))
    file = replace(base, algorithm=replace(base.algorithm, chain=links))
    with pytest.raises(ConfigError, match=r"no rule can be used with this file: .*neither encoded nor masked"):
        grid_plan(file, AttackGridSection(rules=[MEAN, "Krum"], attackers=1), file.load_data())


def test_settings_are_partitions_by_kinds_of_clients():
    section = AttackGridSection(partitions=["iid", "shards:per_client=1"], clients={"FedAvg": [], "ECGR": [ECGR]})
    assert settings_of(section) == {
        "iid, FedAvg clients": Setting({"kind": "iid"}),
        "iid, ECGR clients": Setting({"kind": "iid"}, (hw.ECGR(),)),
        "shards:per_client=1, FedAvg clients": Setting({"kind": "shards", "per_client": 1}),
        "shards:per_client=1, ECGR clients": Setting({"kind": "shards", "per_client": 1}, (hw.ECGR(),)),
    }
    assert settings_of(AttackGridSection()) == {"as in the file": Setting()}


def test_the_grid_is_whole():
    assert len(grid_cells(RULES, ATTACKS, ["iid", "x"])) == 2 * len(RULES) * len(ATTACKS)
    assert len({cell.method for cell in grid_cells(RULES, ATTACKS, ["iid", "x"])}) == 2 * len(RULES) * len(ATTACKS)
