"""What is long in the package has a reason: see `tests/code_size.py`."""

from tests import code_size


def test_what_is_long_has_a_reason():
  paths = sorted(code_size.PACKAGE.rglob("*.py"))
  found = [
    *code_size.long_functions(paths),
    *code_size.long_files(paths),
    *code_size.long_parameter_lists(paths),
  ]
  assert [place for place, _ in found if not code_size.reason(place)] == []


def test_lines_and_parameters_are_counted(tmp_path):
  path = tmp_path / "module.py"
  path.write_text("class C:\n  def f(self, a, b, c, d, e, *f, g=1, **h):\n" + "    a = 1\n" * 400)
  assert [count for _, count in code_size.long_files([path])] == [402]
  assert [count for _, count in code_size.long_functions([path])] == [401]
  assert [count for _, count in code_size.long_parameter_lists([path])] == [8]
