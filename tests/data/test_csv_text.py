"""Text tables as offices write them are read, with every guess in the notes, or refused in a sentence."""

import datetime

import numpy as np
import pytest

from headway.core.errors import ConfigError, DataError
from headway.data import load

r = np.random.default_rng(0)
ROWS = [("Ort", "Alter", "Wert", "Art", "Note")]
for i in range(120):
    numbers = str(r.integers(18, 90)), f"{r.normal():.3f}"
    ROWS.append((["Köln", "Münster", "Ulm"][i % 3], *numbers, "pq"[r.integers(2)], "ab"[r.integers(2)]))
COMMA = "\n".join(map(",".join, ROWS))
SEMICOLON = "\n".join(";".join(cell.replace(".", ",") for cell in row) for row in ROWS)


def read(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(path, **({"target": "Note", "client_column": "Ort"} | options))


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (COMMA.encode("utf-8-sig"), ""),
        (COMMA.encode("cp1252"), "line 2 holds bytes that are not UTF-8: read as Windows-1252"),
        (COMMA.encode("utf-16"), ""),
        (SEMICOLON, "separated by semicolons"),
        (SEMICOLON, "decimal comma, in 'Wert'"),
        (COMMA.replace(",", "\t"), "separated by tabs"),
        (COMMA.replace(",", "|"), "separated by vertical bars"),
        ("sep=;\n" + SEMICOLON, "decimal comma, in 'Wert'"),
        (COMMA.replace("\n", "\r"), ""),
        (COMMA.replace("\n", "\r\n"), ""),
        ("Export vom 3.2.\n\n" + COMMA, "1 line above the header left out: 'Export vom 3.2.'"),
        ("Title,,,,\nof 2024,,,,\n" + COMMA, "2 lines above the header left out: 'Title'; 'of 2024'"),
        ("\n\n" + COMMA + "\n\n", ""),
        (COMMA + "\n,,,,\n", "1 row with nothing but separators left out"),
    ],
)
def test_the_same_table_in_another_form_gives_the_same_data(tmp_path, content, note):
    plain = read(tmp_path / "t.csv", COMMA)
    data = read(tmp_path / "t.csv", content)
    assert plain.clients == ("Köln", "Münster", "Ulm")
    assert data.fingerprint() == plain.fingerprint()
    assert any(note in each for each in data.notes) if note else data.notes == plain.notes


def test_options_take_the_place_of_guesses(tmp_path):
    plain = read(tmp_path / "t.csv", COMMA)
    told = {"separator": ";", "decimal": ",", "encoding": "cp1252"}
    data = read(tmp_path / "t.csv", SEMICOLON.encode("cp1252"), **told)
    assert data.fingerprint() == plain.fingerprint()
    assert data.notes == plain.notes
    thousands = read(tmp_path / "t.csv", "Ort;v;Note\nU;1.234,5;a\nU;0,5;b\n", decimal=",", test_share=0.0)
    assert thousands.store.inputs[:, 0].tolist() == [1234.5, 0.5]
    for option, value in (("separator", "::"), ("decimal", ";"), ("encoding", "cp-what")):
        with pytest.raises(ConfigError, match=rf"data\.{option}"):
            read(tmp_path / "t.csv", COMMA, **{option: value})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (COMMA.encode() + b"\n\x00\x00", "line 122, holds NUL bytes"),
        (b"PK\x03\x04 a workbook", "is a zip or Excel file"),
        (COMMA + "\nUlm,3", "line 122, has 2 values, but the header names 5"),
        (COMMA.split("\n")[0], "has 0 rows"),
        ("", "is empty"),
        (COMMA.split("\n", 1)[1].replace("Ulm", "1"), "no column"),
        ("3.5,1,7\n1,2,3\n4,5,6\n", "begins with numbers"),
        (COMMA + "\nUlm,inf,1.0,p,a", "'Alter' is numeric, but 'inf' in line 122 is infinite"),
        (COMMA + "\nUlm,n.d.,1.0,p,a", "'Alter' is numeric, but 'n.d.' in line 122 is no number"),
        (COMMA + "\nUlm,2_4,1.0,p,a\nUlm,4O,1.0,p,b", "'2_4' in line 122 and 1 more are no number"),
        ('Ort,v,Note\nU,"1,234",a\nU,"2,500",b\n', "'1,234': give data.decimal = ',' if the comma is a decimal mark"),
        ("Ort;v;w;Note\nU;0,5;1.5;a\nU;1,5;2.5;b\n", "'v' has decimal commas, but 'w' has '1.5'"),
    ],
)
def test_what_cannot_be_read_is_a_sentence_with_the_line(tmp_path, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read(tmp_path / "t.csv", content)


def test_a_cell_that_is_no_number_can_be_a_gap_or_the_column_categories_or_left_out(tmp_path):
    wrong = COMMA + "\nUlm,n.d.,1.0,p,a"
    as_gap = read(tmp_path / "t.csv", wrong, gaps=["", "n.d."])
    assert as_gap.features[:2] == ("Alter", "Alter missing")
    assert "'Alter' 1 'n.d.'" in as_gap.notes[0]
    assert "Alter=n.d." in read(tmp_path / "t.csv", wrong, categories=["Alter"]).features
    assert read(tmp_path / "t.csv", wrong, drop=["Alter"]).features[0] == "Wert"


def test_a_text_column_with_numbers_in_it_names_the_cell_that_keeps_it_text(tmp_path):
    rows = "\n".join(f"U,{['0', '1', '2+', '3+'][i % 4]},{'ab'[i % 2]}" for i in range(40))
    data = read(tmp_path / "t.csv", "Ort,children,Note\n" + rows)
    assert data.features == ("children=0", "children=1", "children=2+", "children=3+")
    assert any("'children' ('2+' in line 4 and 19 more are no number)" in note for note in data.notes)


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%y", "%Y-%m-%d %H:%M"])
def test_dates_are_named(headway, tmp_path, form):
    days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(days=i % 50) for i in range(120)]
    rows = "\n".join(f"{'UV'[i % 2]},{day.strftime(form)},{i % 7},{'ab'[i % 3 // 2]}" for i, day in enumerate(days))
    data = read(tmp_path / "t.csv", "Ort,day,v,Note\n" + rows)
    assert any("dates read as categories: 'day'" in note for note in data.notes)
    code, out, _ = headway("init", "--data", "t.csv", "--client-column", "Ort", "--target", "Note")
    assert code == 0
    assert "'day', which holds dates" in out


def test_a_file_of_tabs_may_be_named_so_and_a_folder_is_no_table(headway, tmp_path):
    plain = read(tmp_path / "t.csv", COMMA)
    assert read(tmp_path / "t.tsv", COMMA.replace(",", "\t")).fingerprint() == plain.fingerprint()
    code, _, err = headway("init", "--data", ".")
    assert (code, ". is a folder" in err) == (1, True)


def test_a_wrong_cell_of_the_target_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the target 'Alter' 'n.d.' in line 122 is no number.*leave out the row"):
        read(tmp_path / "t.csv", COMMA + "\nUlm,n.d.,1.0,p,a", target="Alter")
