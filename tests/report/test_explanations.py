"""Explanations as people see them."""

import base64
import io

import numpy as np
import PIL.Image
from tiny_runs import write_run

from tl_app.report import explanations, page
from tl_app.workdir import Record, Workdir

TEXT = "not good, <b>at</b> all"


def word(text, score, column=0):
  start = TEXT.index(text)
  return {"column": column, "start": start, "end": start + len(text), "text": text, "score": score}


WORDS = [word("not", 2.0), word("good", -1.0), word("at", 0.01), word("all", None)]
TEXTS = {
  "id": "t.txt:3",
  "inputs": [TEXT],
  "explanations": [
    {
      "name": "negative",
      "value": 0.9,
      "score": 2.197,
      "method": "integrated_gradients",
      "completeness_error": 0.004,
      "words": WORDS,
    }
  ],
  "similar": [{"id": "a:1", "label": "negative", "similarity": 0.75, "text": "bad"}],
}
IMAGE = {
  "id": "a.png",
  "image": "data:image/jpeg;base64,AA==",
  "explanations": [
    {"name": "cat", "value": 12345.6, "score": 12345.6, "method": "occlusion", "heat": [[0.0, -1.0], [2.0, 1.0]]}
  ],
}
RESULT = {
  "backbone": "tiny",
  "task": "single_label",
  "score_title": "log-odds",
  "groups": [{"title": "", "entries": [TEXTS, IMAGE, {"id": "b.png", "error": "it is empty"}]}],
}


def test_a_text_is_marked_by_the_share_of_the_strongest_word():
  (pieces,) = explanations.marked([TEXT], WORDS)
  assert "".join(piece["text"] for piece in pieces) == TEXT
  kinds = {piece["text"]: (piece["kind"], piece.get("share")) for piece in pieces if "share" in piece}
  assert kinds == {"not": ("for", 1.0), "good": ("against", 0.5), "at": ("", 0.005)}
  assert pieces[-1] == {"text": "all", "kind": "unread"}
  assert [part["text"] for part in explanations.strongest(WORDS, 2)] == ["not", "good"]


def test_a_heat_map_is_blue_for_the_answer_and_orange_against_it():
  data = explanations.overlay([[0.0, -1.0], [2.0, 1.0]]).partition(",")[2]
  pixels = np.array(PIL.Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
  assert pixels[..., 3].tolist()[0][0] == 0 and pixels[1, 0, 3] == pixels[..., 3].max()
  assert abs(pixels[1, 0, 3] - 2 * pixels[0, 1, 3]) <= 1
  assert pixels[1, 0, 2] > pixels[1, 0, 0] and pixels[0, 1, 0] > pixels[0, 1, 2]
  assert explanations.overlay([[0.0]])


def test_the_terminal_has_a_few_lines_for_each_answer():
  assert explanations.lines(RESULT, 2).splitlines() == [
    "t.txt:3: negative 0.900, log-odds 2.197, by integrated gradients, completeness error 0.4 %",
    "  not +2.00, good -1.00",
    "  similar: negative, 0.75, a:1 bad",
    "a.png: cat 12,346, log-odds 12,346, by occlusion",
    "  strongest at 25 % from the left and 75 % from the top",
    "b.png: it is empty",
  ]


def test_the_page_escapes_texts_and_loads_nothing(tmp_path):
  explanations.write(tmp_path / "page.html", RESULT, top=1)
  shown = (tmp_path / "page.html").read_text()
  assert '<mark class="for" style="--v:1.00" title="+2">not</mark>' in shown
  assert "&lt;b&gt;" in shown and "<b>at" not in shown and '<span class="unread">all</span>' in shown
  assert "http:" not in shown and "https:" not in shown and "<script" not in shown and "default-src 'none'" in shown
  assert shown.count('<th scope="row">') == 1 and "completeness error 0.4 %" in shown


def test_the_report_has_a_section_where_test_examples_were_explained(tmp_path):
  write_run(tmp_path, ["negative", "positive"])
  assert 'id="explanations"' not in page.write(tmp_path).read_text()
  paths = Workdir(tmp_path)
  entry = TEXTS | {"label": "positive", "prediction": "negative"}
  groups = [{"title": "Worst errors", "entries": [entry]}]
  Record(paths).write_explanations(paths.explanations / explanations.OF_REPORT, RESULT | {"groups": groups})
  shown = page.write(tmp_path).read_text()
  assert '<h2 id="explanations">Explanations</h2>' in shown and "labelled positive, predicted negative" in shown
