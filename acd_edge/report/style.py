"""The look of the page."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f7f7f5; --card: #ffffff; --ink: #1c2127; --quiet: #5d6671; --line: #dfe2e6;
  --curve: #1f6fb2; --good: #2a86c8; --defective: #d4622a; --warn: #fdf0d9; --warn-ink: #7a4b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121418; --card: #1b1e24; --ink: #e8eaed; --quiet: #9aa3ae; --line: #2e333b;
    --curve: #6fb3ec; --good: #58a9e4; --defective: #f08a55; --warn: #3a2d14; --warn-ink: #f3cf8e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1360px; padding: 28px clamp(14px, 3vw, 40px) 60px;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 2px; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 26px 0 8px; }
h3 small, .facts { color: var(--quiet); font-weight: normal; font-size: 0.9rem; }
.facts { margin: 0 0 14px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 12px 0 22px; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
section, .scroll, .failed { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 20px clamp(14px, 2vw, 26px) 26px; margin-top: 24px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); font-size: 0.86rem; }
th:first-child, td:first-child, th.words, td.words { text-align: left; }
td .badge { white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); }
thead tr:first-child th { text-align: center; border-bottom: 0; padding-bottom: 0; }
tbody tr:last-child td { border-bottom: 0; }
tr.mean td { font-weight: 650; border-top: 2px solid var(--line); }
td.figure {
  background: linear-gradient(var(--curve), var(--curve)) no-repeat left 12px bottom 4px /
    calc((100% - 24px) * var(--share)) 2px;
}
.starts { border-left: 1px solid var(--line); }
a { color: inherit; text-decoration-color: var(--quiet); text-underline-offset: 3px; }
.badge {
  display: inline-block; background: var(--warn); color: var(--warn-ink); border-radius: 6px;
  padding: 1px 8px; font-size: 0.82rem; white-space: normal; overflow-wrap: anywhere;
}
.notes { color: var(--quiet); margin: 10px 0 0; padding-left: 18px; font-size: 0.92rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(310px, 100%), 1fr)); gap: 18px 28px; }
.charts figure { margin: 0; max-width: 420px; }
.charts figcaption { font-weight: 600; font-size: 0.92rem; margin-bottom: 4px; }
.charts figcaption span { color: var(--quiet); font-weight: normal; }
.chart { width: 100%; height: auto; display: block; }
.chart text { font: 10px system-ui, sans-serif; fill: var(--quiet); text-anchor: middle; }
.chart text.end { text-anchor: end; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .axis { stroke: var(--quiet); stroke-width: 1; }
.chart .chance { stroke: var(--quiet); stroke-dasharray: 3 4; }
.chart .curve { fill: none; stroke: var(--curve); stroke-width: 2; stroke-linejoin: round; }
.chart .area { fill: var(--curve); opacity: 0.12; }
.chart .good { fill: var(--good); } .chart .defective { fill: var(--defective); }
.gallery {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr));
  gap: 16px; align-items: start;
}
.gallery figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.gallery .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; background: #16181d; align-items: start; }
.gallery img { width: 100%; height: auto; display: block; }
.gallery figcaption { padding: 7px 10px; font-size: 0.88rem; color: var(--quiet); overflow-wrap: anywhere; }
.gallery figcaption b { color: var(--ink); font-weight: 600; margin-right: 6px; }
.failed { padding: 12px 18px; margin-top: 16px; } .failed summary { cursor: pointer; font-weight: 600; }
.failed li { overflow-wrap: anywhere; }
@media print { body { max-width: none; } section { break-inside: avoid-page; } }
"""
