# SPDX-License-Identifier: Apache-2.0
"""The page: fields, buttons and players over an `Engine`. Nothing here knows how a video is made."""

from __future__ import annotations

import asyncio
import html
import inspect
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.middleware import Middleware

from ..families import family_of
from ..runs.refusals import BadInput, Failed
from ..runs.settings import DEFAULT_RECIPE
from ..runs.vocabulary import vocabulary_of
from .engine import Engine, Request, View
from .form import read_form
from .guard import Guard


EXAMPLES = Path(__file__).parent / "examples"
OPTIONS = {"steps": "num_inference_steps", "guidance": "guidance_scale"}  # what a visitor may set, by stage
SMALL = 64  # up to this width, frames are shown with their pixels as squares
POLL_SECONDS = 0.1
SHOWN: dict[str, Any] = {"autoplay": True, "loop": True, "interactive": False, "buttons": ["download"]}
CSS = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto !important; }
#status progress { appearance: none; width: 100%; height: 8px; background: var(--border-color-primary); border: 0; }
#status progress::-webkit-progress-bar { background: var(--border-color-primary); }
#status progress::-webkit-progress-value { background: var(--color-accent); }
#status progress::-moz-progress-bar { background: var(--color-accent); }
#prompt { --block-info-text-color: var(--body-text-color-subdued); }
#status p { margin: 0 0 4px; overflow-wrap: anywhere; }
#status .error { color: var(--error-text-color, #b91c1c); font-weight: 600; }
#stages { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
#stages .stage { gap: 2px; }
#stages .empty { min-height: 96px; }
.pixels video { image-rendering: pixelated; }
#stages h4 { margin: 0; font-weight: 400; font-size: 0.85em; }
#examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.gradio-container:not(:has(#more input:checked)) #numbers { display: none; }
"""


def build(engine: Engine) -> gr.Blocks:
    """The page over an engine, not yet served. Gradio's own files go to the engine's work folder, too."""
    os.environ["GRADIO_TEMP_DIR"] = str(engine.folder)  # read as each component is made; the results lie in it
    gr.set_static_paths([EXAMPLES])  # served from where they are: copies would be swept away
    titles = stage_titles(engine)
    last = engine.pipe.stage_names[-1]
    names = number_names(engine)
    with gr.Blocks(title=family_title(engine), analytics_enabled=False) as page:
        gr.Markdown(
            f"# {family_title(engine)}\nA sentence becomes a video in {count_in_words(len(titles))} stages: "
            f"{', '.join(titles.values()).lower()}."
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                known = vocabulary_of(engine.asked.model)
                prompt = gr.Textbox(
                    None if known is None else known.example,
                    label="Prompt",
                    info=None if known is None else f"This model knows: {known}.",
                    lines=2,
                    elem_id="prompt",
                )
                negative_prompt = gr.Textbox(label="Negative prompt", placeholder="What to keep out")
                with gr.Row():
                    seed_field = gr.Number(label="Seed", value=0, min_width=120, elem_id="seed")
                    random_seed = gr.Checkbox(label="Random seed", value=True, min_width=120, elem_id="random")
                recipe = gr.Radio(sorted(engine.pipe.recipes), value=DEFAULT_RECIPE, label="Recipe")
                stop_after = gr.Dropdown(
                    [(title, stage) for stage, title in titles.items()],
                    value=last,
                    label="Last stage to run",
                    elem_id="last",
                )
                # A closed gr.Accordion makes its fields only when opened: what is typed at once can be lost then.
                gr.Checkbox(label="Show steps and guidance", elem_id="more", interactive=True)
                with gr.Column(elem_id="numbers"):
                    gr.Markdown("The recipe's, unless you change them. Guidance 1 is none.")
                    values = dict(zip(names, numbers_of(engine, DEFAULT_RECIPE), strict=True))
                    numbers = {}
                    for stage, title in titles.items():
                        with gr.Row():
                            for what in OPTIONS:
                                if (name := (stage, what)) in names:
                                    numbers[name] = gr.Number(
                                        values[name],
                                        label=f"{title}: {what}",
                                        min_width=120,
                                        elem_id=f"{stage}-{what}",
                                    )
                fields = [prompt, negative_prompt, seed_field, random_seed, recipe, stop_after]
                fields += [numbers[name] for name in names]
                with gr.Row():
                    start = gr.Button("Generate", variant="primary", elem_id="start", min_width=120)
                    cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=120)
            with gr.Column(scale=3, min_width=300):
                status = gr.HTML(message("Each stage's video appears here as soon as it is done."), elem_id="status")
                video = gr.Video(label="Newest stage", elem_id="video", **SHOWN)
                clips = {}
                with gr.Row(elem_id="stages"):
                    for stage, title in titles.items():
                        with gr.Column(min_width=130, elem_classes="stage"):
                            gr.Markdown(f"#### {title}")
                            look = "pixels" if stage in small_stages(engine) else "smooth"
                            clips[stage] = gr.Video(elem_id=stage, elem_classes=look, show_label=False, **SHOWN)
                record = gr.DownloadButton("Settings (JSON)", interactive=False, elem_id="record")
        _examples(engine, fields)

        async def generate(
            prompt: str,
            negative_prompt: str,
            seed: float,
            random_seed: bool,
            recipe: str,
            stop_after: str,
            request: gr.Request,
            *values: float | None,
        ) -> AsyncIterator[dict[Any, Any]]:
            try:
                settings = read_form(
                    engine.asked,
                    prompt,
                    negative_prompt,
                    seed,
                    random_seed,
                    recipe,
                    None if stop_after == last else stop_after,
                    **{
                        what: {stage: value for (stage, of), value in zip(names, values, strict=True) if of == what}
                        for what in OPTIONS
                    },
                    stages=engine.pipe.stage_names,
                )
                job = engine.submit(settings, request.session_hash or "")
            except (BadInput, Failed) as error:
                yield {status: message(str(error), error=True)}
                return
            shown = 0
            try:
                yield {
                    **dict.fromkeys((video, *clips.values())),
                    record: gr.update(value=None, interactive=False),
                    start: gr.update(interactive=False),
                    cancel: gr.update(interactive=True),
                    seed_field: settings.seed,
                }
                async for view, ahead in follow(engine, job):
                    changes: dict[Any, Any] = {status: describe(view, ahead, titles)}
                    for stage, path in list(view.clips.items())[shown:]:
                        changes |= {clips[stage]: str(path), video: str(path)}
                    shown = len(view.clips)
                    if view.over:
                        file = str(view.record) if view.record else None
                        changes[record] = gr.update(value=file, interactive=file is not None)
                        changes |= {start: gr.update(interactive=True), cancel: gr.update(interactive=False)}
                    yield changes
            finally:  # the visitor may have gone
                engine.cancel(job)

        # Gradio calls the numbers in its interface what the function's signature calls them: base_steps, ...
        _name_the_rest(generate, [f"{stage}_{what}" for stage, what in names])
        start.click(
            generate,
            fields,
            [status, video, *clips.values(), record, start, cancel, seed_field],
            api_name="generate",
            concurrency_limit=None,  # the engine's queue decides
            show_progress="hidden",
        )

        def stop(request: gr.Request) -> None:
            engine.cancel_all(request.session_hash or "")

        cancel.click(stop, queue=False, api_name="cancel")
        page.unload(stop)

        # In the browser: an answer of the server could come after the visitor has typed other numbers.
        table = json.dumps({name: numbers_of(engine, name) for name in engine.pipe.recipes})
        recipe.input(None, recipe, [numbers[name] for name in names], js=f"recipe => ({table})[recipe]")
    return page


def open_page(engine: Engine, host: str, port: int, share: bool = False) -> gr.Blocks:
    """Serve the page, from threads of its own; `page.close()` ends that.

    Raises:
        OSError: the port is taken.
    """
    page = build(engine)
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=not share,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
        app_kwargs={"middleware": [Middleware(Guard)]},
    )
    return page


def message(text: str, error: bool = False, progress: float | None = None) -> str:
    """A line for the status field, which is HTML and a template: what a visitor wrote must be neither in it."""
    safe = html.escape(text).translate({ord(c): f"&#{ord(c)};" for c in "{}$`"})
    bar = "" if progress is None else f'<progress max="1" value="{progress:.3f}"></progress>'
    return f'<p role="alert" class="error">{safe}</p>' if error else f'<p role="status">{safe}</p>{bar}'


def describe(view: View, ahead: int, titles: Mapping[str, str]) -> str:
    """What the status field says of a request; `titles` are those of the stages."""
    if view.state == "failed":
        return message(view.message, error=True)
    if view.state == "cancelled":
        return message("Cancelled.")
    if view.state == "done":
        return message(f"Done: {view.summary}.") + note(view)
    if view.state == "waiting":
        return message(f"Waiting: {ahead} before this one.", progress=0)
    window = f"window {view.window} of {view.windows}, " if view.windows > 1 else ""
    step = f"{window}step {view.step} of {view.steps}" if view.step else "begins"
    return message(f"{titles[view.stage or next(iter(titles))]}: {step}", progress=view.progress) + note(view)


def note(view: View) -> str:
    """What is doubtful about a request's prompt, as a line of the status field."""
    return message(f"Note: {view.note}.") if view.note else ""


async def follow(engine: Engine, request: Request) -> AsyncIterator[tuple[View, int]]:
    """A request's views, and the number of requests before it, as they change, until it is over.

    Of a long queue every fifth place is told: a crowd that waits must not keep the server busy.
    """
    told = None
    while True:
        view, ahead = request.view, engine.ahead(request)
        now = view, ahead if ahead < 5 else ahead // 5 * 5
        if now != told:
            told = now
            yield view, ahead
        if view.over:
            return
        await asyncio.sleep(POLL_SECONDS)


def family_title(engine: Engine) -> str:
    """What the cascade's family is called."""
    name = type(engine.pipe).__name__
    family = family_of(name)
    return name if family is None else family.title


def stage_titles(engine: Engine) -> dict[str, str]:
    """Stage -> what visitors are told that it makes, in order."""
    return {rung.name: rung.title for rung in engine.pipe.rungs}


def number_names(engine: Engine) -> list[tuple[str, str]]:
    """(stage, one of `OPTIONS`) of every number that a visitor may set: those of the options that the stage has."""
    return [
        (rung.name, what) for what, option in OPTIONS.items() for rung in engine.pipe.rungs if option in rung.options
    ]


def numbers_of(engine: Engine, recipe: str) -> list[float]:
    """A recipe's numbers, as `number_names` names them."""
    options = engine.options(recipe)
    return [options[stage][OPTIONS[what]] for stage, what in number_names(engine)]


def small_stages(engine: Engine) -> list[str]:
    """The stages whose frames are so small that a smooth picture of them would hide what they are."""
    extents = engine.pipe.check_stages(engine.pipe.stage_names, engine.pipe.resolve_options(), 1)
    return [name for name, extent in extents.items() if (extent.width or 0) <= SMALL]


def count_in_words(count: int) -> str:
    """`"four"` for 4, and digits beyond six."""
    words = ("no", "one", "two", "three", "four", "five", "six")
    return words[count] if count < len(words) else str(count)


def _name_the_rest(function: Any, names: list[str]) -> None:
    """Has a function with `*values` behind named arguments and a request say in its signature what those are."""
    kept = inspect.signature(function)
    rest = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=float | None) for name in names
    ]
    named = [p for p in kept.parameters.values() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    function.__signature__ = kept.replace(parameters=[*named, *rest])


def _examples(engine: Engine, fields: list[Any]) -> None:
    """Clips of this cascade that come with the package, each with a button that fills the form with what made it."""
    records = {path: json.loads(path.read_text(encoding="utf-8"))["settings"] for path in EXAMPLES.glob("*.json")}
    records = {path: made for path, made in sorted(records.items()) if made["model"] == engine.asked.model}
    if not records:  # another cascade would make something else of them
        return
    gr.Markdown("## Examples\nMade by this very cascade. A click on a prompt fills the form with it and its seed.")
    with gr.Row(elem_id="examples"):
        for path, made in records.items():
            with gr.Column(min_width=150):
                gr.Video(str(path.with_suffix(".mp4")), show_label=False, **(SHOWN | {"buttons": []}))
                form = [made["prompt"], "", made["seed"], False, made["recipe"], engine.pipe.stage_names[-1]]
                values = [*form, *numbers_of(engine, made["recipe"])]
                button = gr.Button(made["prompt"], size="sm", elem_classes="example")
                button.click(None, None, fields, js=f"() => {json.dumps(values)}")
