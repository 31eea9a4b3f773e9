"""The viewer's screen: which run and panel are shown, and the work in the background."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.widgets import Input, Static

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import counted, line
from remote_mi.recipes.figures import Figure
from remote_mi.report.kinds.grid import Map
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.listing import Item, Listing, make_listing, wrap
from remote_mi.report.terminal import heading, select_figures
from remote_mi.report.viewer import keys, lists, pages
from remote_mi.report.viewer.header_footer import DARK, PALETTES, THEMES, Footer, PanelLine
from remote_mi.report.viewer.list_panel import ListPanel, message_listing
from remote_mi.report.viewer.opened_run import OpenedRun, check_arrays, open_run
from remote_mi.report.viewer.panel import FigurePanel
from remote_mi.report.viewer.panes import GridPane, ListPane, Pane
from remote_mi.report.wording import Slice, verdict_text
from remote_mi.store.result import Result
from remote_mi.store.runs import Runs
from remote_mi.store.studies import StudyRecords

#: Seconds between two readings of the ledger.
_JOBS_INTERVAL = 1.0
#: Screens with fewer lines leave out decoration to make room for the figure.
_LOW_SCREEN = 18


class BaseView(App[None]):
    """Shows a run, with lists of runs, studies and jobs.

    Args:
        folder: folder of the run shown first. project: the user's project.
        room: the runs to list. marked: folders of the marked runs.
        only: name of the figure shown first. slice_: which part of its arrays to show.

    Raises:
        NotFound: if the run has no figure of that name.
    """

    CSS = """
    Screen { background: $background; color: $foreground; }
    #head { height: 2; }
    #rule { height: 1; color: $primary 60%; }
    #title { height: auto; max-height: 2; padding: 0 1; }
    #say { height: 3; color: $foreground; }
    #foot { height: 1; background: $panel; }
    #ask { height: 1; border: none; padding: 0 1; background: $panel; display: none; }
    .-low #head { height: 1; }
    .-low #rule { display: none; }
    .-low #title { height: 1; }
    .-low #say { height: 2; }
    """
    BINDINGS: ClassVar[list[Any]] = keys.bindings()
    TITLE = "remote-mi"
    AUTO_FOCUS = ""
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        folder: Path,
        project: Path,
        room: Runs,
        marked: Iterable[Path] = (),
        only: str | None = None,
        slice_: Slice = Slice(),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__()
        self.animation_level = "none"
        self.project = project
        self.runs = lists.RunTable(room, list(marked), folder)
        self.panels: list[FigurePanel | ListPanel] = []
        self.at = 0
        self.status = ""
        self._jobs: list[Any] = []
        self._jobs_error = ""
        self._comparison: Listing | None = None
        self._comparison_for: tuple[list[Path], int] | None = None
        self.study = ""
        self._start = slice_
        self.head, self.rule, self.heading, self.explanation = (
            Static(id=name, markup=False) for name in ("head", "rule", "title", "say")
        )
        self.foot = Footer("foot")
        self.panel_line, self.input_box = PanelLine("panels"), Input(id="ask", compact=True)
        self.grid, self.list_pane = GridPane("grid"), ListPane("list")
        self.open(folder)
        if only is not None and self.opened.result is not None:
            self._choose_figure(only)
        self._start = Slice()  # it was meant for the first run only

    # Building.

    def compose(self) -> ComposeResult:
        yield from (self.head, self.panel_line, self.rule, self.heading)
        yield from (self.grid, self.list_pane, self.explanation, self.input_box, self.foot)

    def on_mount(self) -> None:
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK
        self.show()
        self.set_interval(_JOBS_INTERVAL, self._tick)
        if self.opened.unchecked:
            self._check(self.opened)

    def on_resize(self) -> None:
        if self.is_mounted:
            self.call_after_refresh(self.show)

    def open(self, folder: Path) -> None:
        """Make another run the current one, with its figures or its error."""
        self.opened: OpenedRun = open_run(folder)
        self.runs.current = folder
        self.status = "checking the arrays against their hash …" if self.opened.unchecked else ""
        self.at = 0
        result = self.opened.result
        if result is not None:
            self.panels = self._figures(result)
        else:
            title = "Failure" if self.opened.failed else "Damaged"
            self.panels = [
                ListPanel(title, lambda width: pages.failure_listing(self.opened, width))
            ]
        self.panels += [
            ListPanel(
                "Runs",
                lambda width: self.runs.listing(width),
                "Enter opens, x marks, = compares two",
            ),
            ListPanel("Studies", self._study_listing, "Enter opens, Esc goes back"),
            ListPanel("Jobs", self._job_listing, "on servers, refreshed every second"),
            ListPanel("Compare", self._compare_listing, "the two marked runs"),
            ListPanel(
                "Provenance",
                lambda width: pages.provenance_listing(self.opened, width),
                "y copies a line, Y the command",
            ),
        ]

    def _figures(self, result: Result) -> list[FigurePanel | ListPanel]:
        """A panel for every figure; consecutive figures of some kinds share one."""
        made: list[FigurePanel | ListPanel] = []
        last: FigurePanel | None = None
        for figure in select_figures(result, None):
            if last is not None and last.kind.joined and kind_of(figure) is last.kind:
                last.joined_figures = (*last.joined_figures, figure)
            else:
                last = self._figure(figure, result)
                made.append(last)
        return made

    def _figure(self, figure: Figure, result: Result) -> FigurePanel:
        """A panel at the requested slice, without dimensions that the figure does not have."""
        panel = FigurePanel(figure, result, self._start)
        at = {dim: label for dim, label in self._start.at.items() if dim in panel.dims()}
        panel.slice_ = replace(self._start, at=at)
        return panel

    def _choose_figure(self, only: str) -> None:
        assert self.opened.result is not None
        chosen = select_figures(self.opened.result, only)[0]
        for index, panel in enumerate(self.panels):
            if isinstance(panel, FigurePanel) and chosen in (panel.figure, *panel.joined_figures):
                self.at = index
                return
        self.panels.insert(0, self._figure(chosen, self.opened.result))

    # Showing.

    @property
    def panel(self) -> FigurePanel | ListPanel:
        return self.panels[self.at]

    @property
    def pane(self) -> Pane:
        """The widget that shows the current panel."""
        return self.grid if self.grid.display else self.list_pane

    def show(self) -> None:
        """Redraw everything; the cursor stays where it is if the panel is the same."""
        width = self.size.width
        self.screen_stack[0].set_class(self.is_low, "-low")
        self.head.update(self._head(width))
        self.panel_line.show([line(p.title) for p in self.panels], self.at)
        self.rule.update(Text("─" * width, no_wrap=True))
        self.foot.show(width)
        grid, listed = self.grid, self.list_pane
        panel = self.panel
        try:
            figure = panel if isinstance(panel, FigurePanel) else None
            cell_map = figure.cell_map(PALETTES[self.theme]) if figure else None
            listing = None if cell_map is not None else self._listing(panel, width - 2)
        except RemoteMIError as error:
            cell_map, listing = None, message_listing(str(error), width - 2)
        grid.display, listed.display = cell_map is not None, cell_map is None
        self.heading.update(self._title(cell_map))
        if cell_map is not None:
            assert isinstance(panel, FigurePanel)
            grid.show(cell_map, panel.window)
            if not self._same_panel():
                grid.place_cursor(*cell_map.start)
        elif listing is not None:
            keep = self._same_panel() and not self._lines
            listed.show(listing, listed.at if keep else None)
        self._drawn = (self.opened.folder, self.at, self.study)

    @property
    def is_low(self) -> bool:
        """Whether the screen has so few lines that the figure needs the space around it."""
        return self.size.height < _LOW_SCREEN

    @property
    def _lines(self) -> bool:
        """Whether the panel is a list whose cursor also selects a point of a line."""
        return isinstance(self.panel, FigurePanel) and self.panel.has_points

    _drawn: tuple[Path, int, str] | None = None

    def _same_panel(self) -> bool:
        return self._drawn == (self.opened.folder, self.at, self.study)

    def _listing(self, panel: FigurePanel | ListPanel, width: int) -> Listing:
        if isinstance(panel, FigurePanel):
            around = 5 if self.is_low else 9  # lines above and below a list
            return panel.listing(width, self.size.height - around)
        return panel.make(width)

    def _head(self, width: int) -> Text:
        """Two lines: which run this is, and how it was made."""
        result = self.opened.result
        if result is not None:
            lines = list(heading(result))
            if result.notes:
                many = counted(len(result.notes), "note")
                lines[1] = Text.assemble((f" {many}, in Provenance ·", "bold"), lines[1])
            if verdict := verdict_text(result):
                lines[1] = Text.assemble((f" {verdict} ·", "bold"), lines[1])
        else:
            recipe = self.opened.info.card.name if self.opened.info else ""
            sign = "✗ failed" if self.opened.failed else "! damaged"
            lines = [
                Text(f"remote-mi  {line(str(recipe))}  {line(self.opened.id8)} {sign}", "bold"),
                Text(f" {line(str(self.opened.folder))}", "dim"),
            ]
        if self.status:
            lines[1] = Text(f" {self.status}", "bold")
        if lines[0].cell_len > width - 1:  # save space between its parts
            lines[0] = Text(lines[0].plain.replace("  ", " "), "bold")
        for text in lines:
            text.truncate(max(10, width - 1), overflow="ellipsis")
        return Text("\n").join(lines)

    def _title(self, cell_map: Map | None) -> Text:
        panel = self.panel
        if not isinstance(panel, FigurePanel):
            return Text(panel.title, "bold").append(f"  {panel.hint}", "not bold dim")
        unit = f" [{panel.current.unit}]" if panel.current.unit else ""
        text = Text(f"{line(panel.title)}{line(unit)}", "bold")
        parts = [panel.state_text()]
        if cell_map is not None:
            grid = cell_map.grid
            parts.insert(0, f"{grid.row_name} × {grid.column_name}")
            if panel.window is not None:
                low, high = (line(str(grid.rows[at])) for at in panel.window)
                parts.append(f"{grid.row_name} {low} to {high}")
            parts += cell_map.head
        details = " · ".join(line(p) for p in parts if p)
        return text.append(f"  {details}" if details else "", "not bold")

    @on(Pane.Moved)
    def explain_cursor(self) -> None:
        """Explain what is under the cursor."""
        grid = self.grid
        if grid.display:
            sentences: list[str] = []
            if grid.map is not None and grid.map.distance.size:
                sentences = [*grid.map.explain(grid.row, grid.column), *grid.map.foot]
        else:
            sentences = list(self.list_pane.item.explanation)
        width = self.size.width - 4
        lines = [piece for text in sentences for piece in wrap(text, width)]
        room = 2 if self.is_low else 3
        if len(lines) > room:
            lines[room - 1].truncate(width - 1)
            lines[room - 1].append("…")
        shown = [Text(" ▸ " if i == 0 else "   ") + text for i, text in enumerate(lines[:room])]
        self.explanation.update(Text("\n").join(shown), layout=False)

    def show_message(self, text: str, severity: str = "information") -> None:
        """Show a message at the bottom; `severity` as in `Footer.show_message`."""
        self.foot.show_message(text, severity)

    # Background work.

    @work(thread=True, group="check", description="check", exclusive=True)
    def _check(self, opened: OpenedRun) -> None:
        problem = check_arrays(opened)
        self.call_from_thread(self._set_check_result, opened, problem)

    def _set_check_result(self, opened: OpenedRun, problem: str) -> None:
        if opened is self.opened:
            self.status = f"! {line(problem)}" if problem else ""
            self.show()
            if problem:
                self.show_message("this run is damaged: do not trust what is shown", "error")

    @work(thread=True, group="rows", description="rows", exclusive=True)
    def _read_rows(self) -> None:
        rows = lists.read_rows(self.runs.room, self.project)
        self.call_from_thread(self._set_rows, rows)

    def _set_rows(self, rows: dict[str, Any]) -> None:
        self.runs.rows = rows
        if self.panel.title == "Runs":
            self.show()

    @work(thread=True, group="jobs", description="jobs", exclusive=True)
    def _read_jobs(self) -> None:
        try:
            jobs, problem = lists.read_jobs(self.project), ""
        except RemoteMIError as error:
            jobs, problem = [], str(error)
        self.call_from_thread(self._set_jobs, jobs, problem)

    def _set_jobs(self, jobs: list[Any], error: str) -> None:
        self._jobs, self._jobs_error = jobs, error
        if self.panel.title == "Jobs":
            self.show()

    def _job_listing(self, width: int) -> Listing:
        if self._jobs_error:
            return message_listing(self._jobs_error, width)
        return lists.job_listing(self._jobs, self.project)

    def _study_listing(self, width: int) -> Listing:
        records = StudyRecords(self.project)
        if self.study:
            return lists.point_listing(records, self.study)
        return lists.study_listing(records)

    @work(thread=True, group="compare", description="compare", exclusive=True)
    def _compare(self, a: Path, b: Path, width: int) -> None:
        try:
            listing = pages.comparison_listing(a, b, width)
        except RemoteMIError as error:
            listing = message_listing(str(error), width)
        self.call_from_thread(self._set_comparison, ([a, b], width), listing)

    def _set_comparison(self, runs: tuple[list[Path], int], listing: Listing) -> None:
        if runs != self._comparison_for:
            return  # other runs have been marked since
        self._comparison = listing
        if self.panel.title == "Compare":
            self.show()

    @property
    def runs_to_compare(self) -> list[Path]:
        """The two marked runs, or the one marked run and the one shown; else none."""
        chosen = list(self.runs.marked)
        if len(chosen) == 1 and chosen[0] != self.opened.folder:
            chosen.append(self.opened.folder)
        return chosen if len(chosen) == 2 else []

    def _compare_listing(self, width: int) -> Listing:
        pair = self.runs_to_compare
        if not pair:
            texts = ["mark two runs with x, in the panel Runs or here"]
            texts += [f"marked: {line(folder.name)}" for folder in self.runs.marked]
            return make_listing([(Text(f" {text}", no_wrap=True), Item()) for text in texts])
        if self._comparison_for != (pair, width):
            self._comparison, self._comparison_for = None, (pair, width)
            self._compare(*pair, width)
        return self._comparison or message_listing("comparing …", width)

    def _tick(self) -> None:
        if self.panel.title == "Jobs":
            self._read_jobs()
