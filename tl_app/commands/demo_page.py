"""The page of `python -m tl_app.demo`, made with Gradio and served on this machine only."""

import os
import socket

# Before Gradio is imported: it asks its servers for news otherwise.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import fastapi
import gradio as gr
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tl_app.commands.demo import Session, Shown, frame
from tl_app.data import modalities
from tl_app.errors import UserError

HOST = "127.0.0.1"
# Names by which a browser of this machine reaches the page; others are attempts from other pages.
_HOSTS = [HOST, "localhost"]
# A browser loads nothing from elsewhere, whatever the page asks for.
_POLICY = (
  "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
  "frame-src 'self' data: blob:; form-action 'self'"
)
_CSS = (
  ".explanation { width: 100%; height: 30rem; border: 1px solid #8a94a0; border-radius: .4rem; background: white; }"
)


def serve(session: Session, port: int) -> None:
  """Serves the page on the loopback interface until the process is interrupted.

  Args:
    session: the `Session`.
    port: of the server.

  Raises:
    UserError: the port is in use.
  """
  try:
    listening = socket.create_server((HOST, port))
  except (OSError, OverflowError) as error:
    raise UserError(f"--port={port} cannot be used ({error}): choose another one") from None
  uvicorn.Server(uvicorn.Config(application(session), log_level="warning")).run(sockets=[listening])


def application(session: Session) -> fastapi.FastAPI:
  """Returns the web application of a `Session`."""
  app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
  app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)

  @app.middleware("http")
  async def restrict(request, call_next):
    response = await call_next(request)
    response.headers["Content-Security-Policy"] = _POLICY
    return response

  theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
  return gr.mount_gradio_app(
    app, blocks(session), path="/", server_name=HOST, footer_links=[], theme=theme, css=_CSS, ssr_mode=False, pwa=False
  )


def blocks(session: Session) -> gr.Blocks:
  """Returns the components of the page and what connects them."""
  with gr.Blocks(analytics_enabled=False, title=f"Try {session.name}") as page:
    gr.Markdown(f"# Try {session.name}\nInputs and answers stay on this machine.")
    with gr.Row():
      with gr.Column():
        inputs = _inputs(session)
        ask = gr.Button("Answer", variant="primary")
        gr.Markdown(
          "## Is it wrong?\nWrite the right label and flag the answer. It is saved in a table for the next training."
        )
        labels = [_label(session, name) for name in session.task.answers.label_columns]
        flag = gr.Button("Flag this answer")
        saved = gr.Markdown()
      with gr.Column():
        words = gr.Textbox(label="Answer", interactive=False, lines=2)
        # Numbers and tags have none, and before the first answer there is none.
        probabilities = gr.Label(label="Probabilities", num_top_classes=5, visible=False)
        explanation = gr.HTML()
    state = gr.State(None)

    def answer(*values):
      shown = session.answer(values)
      bars = gr.Label(shown.probabilities or None, visible=bool(shown.probabilities))
      return (
        *(shown, shown.words, bars, frame(shown.explanation), ""),
        *(shown.labels or ("",) * len(labels)),
      )

    def flagged(shown: Shown | None, *cells):
      return session.flag(shown, [cell or "" for cell in cells])

    outputs = [state, words, probabilities, explanation, saved, *labels]
    ask.click(answer, inputs, outputs, api_visibility="private")
    flag.click(flagged, [state, *labels], saved, api_visibility="private")
  return page


def _inputs(session):
  """Returns the components of one input."""
  if modalities.of(session.modality).is_decoded:
    image = gr.Image(label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"])
    # Gradio's own fails for a damaged image, and the answer to the image before would stay.
    image.preprocess = lambda uploaded: uploaded.path if uploaded else None
    return [image]
  names = ["First text", "Second text"] if session.pairs else ["Text"]
  return [gr.Textbox(label=name, lines=4) for name in names]


def _label(session, name):
  """Returns the component of a cell of the right label."""
  task = session.task
  title = "Right label" if name == "label" else f"Right {name}"
  if task.single_label:
    return gr.Dropdown(list(task.names), label=title, allow_custom_value=True)
  return gr.Textbox(label=title)
