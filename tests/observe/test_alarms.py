"""Alarms name who pulls where, and nobody where clients are alike."""

import random
import sqlite3

import pytest
import torch
from toys import linear_task

import headway as hw
from headway.numerics.keys import Key
from headway.observe.alarms import EVERY, HORIZON, AlarmWatch, Figures, Lines, alarms, common_labels
from headway.observe.client_clusters import find_clusters
from headway.observe.drift import DriftMeter
from headway.observe.journal import Journal

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)


def cohort(directions, noise=0.2, size=200, seed=0, lengths=None):
    """Deltas along given directions (numbers from 0; a minus sign turns one round), with noise across."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for index, direction in enumerate(directions):
        delta = torch.zeros(size)
        delta[abs(direction) - 1] = 1.0 if direction > 0 else -1.0
        delta += noise * torch.randn(size, generator=generator) / size**0.5
        found[f"c{index:02d}"] = delta * (1.0 if lengths is None else lengths[index])
    return found


def figures(deltas, round_=1, order=None):
    meter = DriftMeter(len(deltas), 200, Key.root(0))
    for client in order or deltas:
        meter.add(client, deltas[client], 1.0)
    drift = meter.drift()
    clients = {client: {**drift.numbers_of(client), "norm": drift.clients[client].norm} for client in drift.clients}
    return Figures(round_, clients, drift.numbers())


def after(rounds, labels=None, **options):
    """The alarms after rounds of these directions, each with its own noise."""
    return alarms([figures(cohort(each, seed=r, **options), r) for r, each in enumerate(rounds, 1)], labels)


ALIKE, LIAR = [1] * 8, [1, 1, 1, -1, 1, 1, 1, 1]
TWO = [1, 2, 1, 2, 1, 2, 1, 1]


class TestClusters:
    def test_two_clusters_are_named_and_what_they_have_in_common(self):
        labels = {f"c{i:02d}": (9, 1, 0, 0, 0) if d == 1 else (0, 0, 1, 5, 5) for i, d in enumerate(TWO)}
        (alarm,) = after([TWO] * 3, labels)
        assert alarm.kind == "clusters"
        assert alarm.clusters == (("c00", "c02", "c04", "c06", "c07"), ("c01", "c03", "c05"))
        assert alarm.clients == tuple(f"c{i:02d}" for i in range(8))
        assert "c00, c02, c04, c06, c07 (mostly label 0) and c01, c03, c05 (mostly labels 3, 4);" in alarm.text
        assert alarm.numbers["clusters"] == 2
        assert alarm.numbers["within_clusters"] > 0.9
        assert abs(alarm.numbers["between_clusters"]) < 0.1

    def test_three_clusters_and_one_alone(self):
        (alarm,) = after([[1, 1, 1, 2, 2, 2, 3, 3, 4]] * 3)
        assert [len(cluster) for cluster in alarm.clusters] == [3, 3, 2]
        assert "c08" not in alarm.clients

    def test_two_rounds_are_not_enough_and_clusters_must_stay_the_same(self):
        assert after([ALIKE, TWO, TWO]) == ()
        shuffled = [TWO, [1, 1, 2, 2, 1, 1, 1, 2], [2, 1, 1, 1, 1, 2, 2, 1]]
        assert after(shuffled) == ()
        assert all(figures(cohort(each)).cohort["clusters"] == 2 for each in shuffled)

    def test_a_cluster_by_another_number_is_the_same_camp(self):
        """Who is absent changes which cluster is the larger."""
        rounds = [figures(cohort([1, 1, 1, 1, 2, 2, 2]), 1)]
        fewer = {c: d for c, d in cohort([1, 1, 1, 1, 2, 2, 2], seed=1).items() if c != "c00"}
        fewer |= {"c07": cohort([2] * 8, seed=1)["c07"]}
        rounds += [figures(fewer, 2), figures(fewer, 3)]
        assert rounds[0].clients["c04"]["cluster"] != rounds[2].clients["c04"]["cluster"]
        assert [alarm.kind for alarm in alarms(rounds)] == ["clusters"]

    def test_directions_without_structure_are_no_clusters(self):
        for seed in range(30):
            scattered = torch.randn(12, 15, generator=torch.Generator().manual_seed(seed))
            assert find_clusters([f"c{i}" for i in range(12)], scattered @ scattered.T) is None

    def test_scatter_about_zero_along_one_line_is_seldom_taken_for_clusters(self):
        """Cosines are +1 or -1 there although nothing divides the clients; the lengths tell."""
        names, by_lengths, by_directions = [f"c{i}" for i in range(12)], 0, 0
        for seed in range(100):
            generator = torch.Generator().manual_seed(seed)
            line, across = torch.randn(12, 1, generator=generator), torch.randn(12, 15, generator=generator)
            scattered = torch.cat([line, 0.1 * across], dim=1)
            directions = torch.nn.functional.normalize(scattered, dim=1)
            by_lengths += find_clusters(names, scattered @ scattered.T) is not None
            by_directions += find_clusters(names, directions @ directions.T) is not None
        assert by_lengths <= 25
        assert by_directions >= 50

    def test_few_clients_are_too_few_to_tell(self):
        assert after([[1, 1, -1, -1, -1]] * 3) == ()


class TestAgainst:
    def test_one_liar_is_named(self):
        labels = {f"c{i:02d}": (0, 9) if i == 3 else (9, 1) for i in range(8)}
        (alarm,) = after([LIAR] * 3, labels)
        assert (alarm.kind, alarm.clients) == ("against", ("c03",))
        assert alarm.text.startswith("c03 (-0.9")
        assert "mostly label 1" in alarm.text

    def test_a_liar_that_shouts_is_still_the_one(self):
        """Its weight turns the common direction round; the agreement of pairs is not swayed."""
        loud = after([LIAR] * 3, lengths=[1, 1, 1, 20, 1, 1, 1, 1])
        assert {alarm.kind: alarm.clients for alarm in loud} == {"against": ("c03",), "above": ("c03",)}

    def test_it_must_last(self):
        assert after([LIAR, LIAR]) == ()
        assert after([LIAR, ALIKE, LIAR, LIAR]) == ()
        assert [a.kind for a in after([ALIKE, LIAR, LIAR, LIAR])] == ["against"]

    def test_its_last_rounds_need_not_follow_each_other(self):
        rounds = []
        for number in range(1, 8):
            deltas = cohort(LIAR, seed=number)
            rounds.append(figures(deltas if number % 3 == 1 else {c: deltas[c] for c in deltas if c != "c03"}, number))
        assert [a.clients for a in alarms(rounds)] == [("c03",)]
        late = [Figures(f.round if f.round > 1 else 7 - HORIZON, f.clients, f.cohort) for f in rounds]
        assert alarms(late) == ()

    def test_without_a_common_direction_nobody_pulls_against_it(self):
        assert after([[1, 2, 3, 4, 5, 6, -1, 7]] * 3) == ()


class TestAbove:
    @pytest.mark.parametrize(("length", "named"), [(30.0, True), (5.0, True), (3.5, False), (0.01, False)])
    def test_far_above_the_cohort(self, length, named):
        found = after([ALIKE] * 3, lengths=[1, 1.1, 0.9, 1, 1.2, length, 0.8, 1])
        assert [(a.kind, a.clients) for a in found] == ([("above", ("c05",))] if named else [])

    def test_a_cohort_of_many_sizes_needs_more(self):
        assert after([ALIKE] * 3, lengths=[1, 2, 3, 4, 5, 20, 7, 8]) == ()

    def test_of_few_clients_nothing_is_said(self):
        assert after([[1] * 4] * 3, lengths=[1, 1, 1, 100]) == ()


def test_the_order_of_clients_does_not_matter():
    rounds = [cohort(TWO, seed=r) | {"d": cohort([-1], seed=r)["c00"] * 9} for r in range(3)]
    expected = alarms([figures(deltas, r) for r, deltas in enumerate(rounds)])
    assert {a.kind for a in expected} >= {"clusters", "above"}
    for seed in range(5):
        order = list(rounds[0])
        random.Random(seed).shuffle(order)
        assert alarms([figures(deltas, r, order) for r, deltas in enumerate(rounds)]) == expected


def test_common_labels():
    labels = {"a": (10, 0, 0, 0), "b": (0, 5, 5, 0), "c": (3, 2, 2, 3), "d": (0, 0, 0, 20)}
    assert common_labels(["a"], labels) == (0,)
    assert common_labels(["b"], labels) == (1, 2)
    assert common_labels(["c"], labels) == ()
    assert common_labels(["a", "b", "c", "d"], labels) == ()
    assert common_labels(["unknown"], labels) == common_labels(["a"], {}) == ()


def test_lines_do_not_flood():
    (alarm,) = after([LIAR] * 3)
    lines = Lines()
    said = [round_ for round_ in range(3, 40) if lines.of(round_, [alarm])]
    assert said == [3, 3 + EVERY, 3 + 2 * EVERY, 3 + 3 * EVERY]
    assert lines.summary() == "Alarms: c03 pulled against the others (noted in 37 rounds)."
    assert Lines().summary() is None


def iid(clients, each, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 4, generator=generator) * 3
    parts = {}
    for index in range(clients):
        labels = torch.randint(0, 3, (each,), generator=generator)
        parts[f"c{index:02d}"] = (centres[labels] + torch.randn(each, 4, generator=generator), labels)
    return hw.FederatedData.from_clients(parts)


@pytest.mark.parametrize("seed", range(4))
def test_no_false_alarm_where_clients_are_alike(seed):
    run = hw.rounds(
        hw.recipes.fedavg(trainer=TRAINER), iid(10, 40, seed), linear_task(), rounds=20, seed=seed, evaluate_every=99
    )
    assert [alarm.text for report in run for alarm in report.alarms] == []


def divided():
    """Clients of two kinds, whose labels are turned round; and one of neither."""
    whole = iid(8, 40, 0)
    parts = {}
    for index, client in enumerate(whole.clients):
        examples = whole.train_of(client)
        parts[client] = (examples.inputs, (examples.targets + index % 2) % 3)
    return hw.FederatedData.from_clients(parts)


class TestInARun:
    def run(self, folder, rounds=6, resume=False):
        return hw.Run(
            hw.recipes.fedavg(trainer=TRAINER),
            divided(),
            linear_task(),
            rounds=rounds,
            folder=folder,
            resume=resume,
            checkpoint_every=1,
        )

    def test_clusters_are_raised_and_journalled(self, tmp_path):
        run = self.run(tmp_path / "run")
        reports = list(run)
        run.close()
        (alarm,) = reports[-1].alarms
        assert alarm.kind == "clusters"
        assert set(alarm.clusters) == {("c00", "c02", "c04", "c06"), ("c01", "c03", "c05", "c07")}
        journal = Journal(tmp_path / "run" / "journal.sqlite")
        rows = journal.rows("alarms")
        assert [row["round"] for row in rows] == [r.round for r in reports if r.alarms]
        assert rows[-1]["text"] == alarm.text
        assert journal.figures(after=4) == [
            Figures(
                r.round,
                {c: {k: v for k, v in f.items() if k in ("agreement", "cluster", "norm")} for c, f in found.items()},
                r.drift,
            )
            for r in reports[4:]
            for found in [Figures.of(r).clients]
        ]
        journal.close()

    def test_a_resumed_run_raises_the_same(self, tmp_path):
        whole = self.run(tmp_path / "whole")
        expected = [report.alarms for report in whole]
        whole.close()
        run = self.run(tmp_path / "run", rounds=4)
        found = [report.alarms for report in run]
        run.close()
        resumed = self.run(tmp_path / "run", resume=True)
        found += [report.alarms for report in resumed]
        resumed.close()
        assert found == expected
        assert expected[4]

    def test_a_journal_from_before_there_were_alarms_opens(self, tmp_path):
        path = tmp_path / "journal.sqlite"
        run = self.run(tmp_path / "run", rounds=3)
        reports = list(run)
        run.close()
        old = sqlite3.connect(tmp_path / "run" / "journal.sqlite")
        old.execute("DROP TABLE alarms")
        old.execute(f"VACUUM INTO '{path}'")
        old.close()
        journal = Journal(path)
        journal.forget_after(2)
        assert journal.rows("alarms") == []
        assert len(journal.figures(after=0)) == 2
        journal.record(reports[2])
        assert len(journal.rows("alarms")) == len(reports[2].alarms)
        journal.close()


def test_a_watch_recalls_what_it_saw():
    rounds = [figures(cohort(LIAR, seed=r), r) for r in range(1, 5)]
    seen, recalled = AlarmWatch(), AlarmWatch()
    for each in rounds[:3]:
        last = seen.alarms_after(each)
    assert [alarm.kind for alarm in last] == ["against"]
    recalled.alarms_after(rounds[0])
    recalled.restart(rounds[:3])
    assert recalled.alarms_after(rounds[3]) == seen.alarms_after(rounds[3]) != ()
    assert seen.alarms_after(Figures(5, {}, {})) == ()


def test_a_journal_of_an_earlier_version_is_read_by_its_names(tmp_path):
    book = Journal(tmp_path / "journal.sqlite")
    rows = [(1, "drift", "camps", 2.0), (1, "drift", "within_camps", 0.9), (1, "client:a", "camp", 1.0)]
    with book._connection as connection:
        connection.executemany("INSERT INTO metrics VALUES (?,?,?,?)", rows)
    (figures_,) = book.figures(after=0)
    assert figures_.cohort == {"clusters": 2.0, "within_clusters": 0.9}
    assert figures_.clients == {"a": {"cluster": 1.0}}
    book.close()
