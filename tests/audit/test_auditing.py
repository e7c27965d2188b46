"""An audit finds what leaks, calls it so, and finds less behind protections; it repeats to the byte."""

import json
import re

import pytest
import torch
from conformance.teststages import FixedPoint, NoisyRelease, PairwiseMasks

import headway as hw
from headway.audit.audit_page import render_audit
from headway.audit.auditing import Audit, AuditOptions
from headway.audit.picture_grid import is_picture, picture_grid, png
from headway.experiment.resolved_runfile import RunFile
from headway.experiment.runfile import load_runfile

SMALL = ["model.hidden=[8]", "algorithm.trainer.epochs=1"]
UNHURRIED_S = 900.0  # which no audit of a test is near


def audited(name="hospitals", sets=(), chain=None, attacks=("dense",), **options):
    runfile = load_runfile(name, [*SMALL, *sets])
    if chain is not None:
        algorithm = hw.Algorithm(chain, runfile.algorithm.trainer, runfile.algorithm.sampler)
        runfile = RunFile(runfile.sections, algorithm)
    audit = Audit(runfile, AuditOptions(attacks=attacks, **{"budget_s": UNHURRIED_S, **options}))
    return audit.run(audit.steps())


@pytest.fixture(scope="module")
def plain():
    return audited()


def dense(report):
    return [row for row in report.rows if row.attack == "dense-layer inversion"]


def test_records_of_a_plain_federation_are_recovered(plain):
    row = dense(plain)[0]
    assert (row.observer, row.verdict) == ("server", "succeeded")
    assert row.figures["recovered"] > 0
    assert row.figures["share_by_chance"] == 0.0
    assert (plain.passed, plain.exit_code, plain.headline) == (False, 1, "Attacks succeeded")
    assert plain.protections == ()


def test_noise_and_masks_hide_them():
    noisy = audited(chain=hw.chain(hw.Clip(1.0), hw.Mean(over="expected"), NoisyRelease(1.0)))
    masked = audited(chain=hw.chain(FixedPoint(), PairwiseMasks(), hw.Mean()))
    clients = [row for row in dense(noisy) if row.observer == "another client"]
    assert [row.figures["recovered"] for row in clients] == [0]
    # noise after the aggregate does not hide an update from the server
    assert dense(noisy)[0].figures["recovered"] == dense(noisy)[0].figures["recovered_before"]
    assert dense(masked)[0].figures["recovered"] < dense(masked)[0].figures["recovered_before"]
    assert "the sum" in dense(masked)[0].seen


def test_a_clip_alone_hides_nothing(plain):
    clipped = audited(chain=hw.chain(hw.Clip(1e-3), hw.Mean()))
    assert [row.figures["recovered"] for row in dense(clipped)[:1]] == [dense(plain)[0].figures["recovered"]]
    assert dense(clipped)[0].verdict == "succeeded"


def test_canaries_measure_the_noise_of_a_shipped_stage():
    chain = hw.chain(hw.Clip(1.0), hw.Mean(over="expected"), hw.GaussianNoise(1.2))
    report = audited(chain=chain, attacks=("canaries",))
    (row,) = [row for row in report.rows if row.attack == "canary clients"]
    assert row.verdict == "failed"
    assert row.figures["multiplier"] == pytest.approx(1.2, rel=0.1)
    page = render_audit(report)
    assert "Epsilon, counted and measured" in page
    assert "took part" in page


def test_what_a_trusted_server_sees_does_not_count():
    chain = hw.chain(hw.Clip(1.0), hw.Mean(over="expected"), hw.GaussianNoise(1.0))
    report = audited(chain=chain, trusted_server=True)
    assert "succeeded" in [row.verdict for row in report.rows]
    assert report.passed
    assert "besides those of the server" in report.sentence
    assert not audited(chain=chain).passed


def test_a_budget_that_is_spent_is_noted():
    report = audited(budget_s=0.0)
    assert report.rows == ()
    assert any("time budget" in note for note in report.notes)
    assert "nothing is known" in report.sentence
    assert not report.passed
    assert (report.exit_code, report.headline) == (2, "Nothing is known")


def test_a_quorum_that_needs_a_clock_is_noted():
    runfile = load_runfile("hospitals", SMALL)
    late = hw.Algorithm(hw.chain(hw.Mean()), runfile.algorithm.trainer, hw.All(), hw.Quorum(count=2))
    audit = Audit(RunFile(runfile.sections, late), AuditOptions(attacks=("dense", "membership"), budget_s=UNHURRIED_S))
    report = audit.run(audit.steps())
    assert any("needs a clock" in note for note in report.notes)
    assert len(report.rows) == 3


def test_the_page_and_the_numbers_repeat(plain):
    again = audited()
    assert render_audit(again) == render_audit(plain)
    assert json.dumps(again.to_json()) == json.dumps(plain.to_json())
    page = render_audit(plain)
    assert "ATTACK SUCCEEDED" in page
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)


def test_a_picture_is_a_png_with_its_pixels(tmp_path):
    from PIL import Image

    shades = torch.tensor([[[0.0, 0.5], [1.0, 2.0]]])
    (tmp_path / "a.png").write_bytes(png(shades, 0.0, 1.0))
    assert list(Image.open(tmp_path / "a.png").tobytes()) == [0, 128, 255, 255]
    colours = torch.rand(3, 5, 4)
    (tmp_path / "b.png").write_bytes(png(colours, 0.0, 1.0))
    pixel = Image.open(tmp_path / "b.png").getpixel((3, 4))
    assert pixel == tuple((colours[:, 4, 3] * 255).round().int().tolist())
    assert [is_picture(shape) for shape in ((1, 8, 8), (2, 8, 8), (4,))] == [True, False, False]
    grid = picture_grid("<t>", [("row", [colours, None])], ["<a>", "b"], [["x", "y"]], (0.0, 1.0))
    assert grid.count("<image") == 1
    assert "<a>" not in grid
