import pytest

from experiments.readme import BEGIN, END, main, tables
from orchestrator.core.errors import UserError

REPORT = "# run\n\n![Accuracy](compute_accuracy.png)\n\n## Costs (320 problems)\n\n| a |\n| - |\n| 1 |\n"


def test_what_stands_between_the_marks_becomes_the_runs_tables(tmp_path):
    (tmp_path / "report.md").write_text(REPORT)
    (tmp_path / "compute_accuracy.png").write_bytes(b"png")
    readme, figure = tmp_path / "README.md", tmp_path / "figure.png"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):  # a second time changes nothing
        main(tmp_path, readme, figure)
        assert (
            readme.read_text()
            == f"before\n{BEGIN}\n\n**Costs (320 problems)**\n\n| a |\n| - |\n| 1 |\n\n{END}\nafter\n"
        )
    assert figure.read_bytes() == b"png"
    assert "# run" not in tables(REPORT)


def test_a_folder_without_a_report_and_a_readme_without_marks_are_named(tmp_path):
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(UserError, match=r"no report\.md"):
        main(tmp_path, tmp_path / "README.md", tmp_path / "f.png")
    (tmp_path / "report.md").write_text(REPORT)
    with pytest.raises(UserError, match="wanted one"):
        main(tmp_path, tmp_path / "README.md", tmp_path / "f.png")
