"""How a report looks."""

CSS = """
:root { --ink: #1f2933; --faint: #616e7c; --line: #e4e7eb; --panel: #ffffff; --blue: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 0 0 12px; }
.lead { color: var(--faint); margin: 4px 0 24px; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin: 0 0 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(155px, 1fr)); gap: 14px;
  margin: 0 0 18px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 16px; }
.card .name { color: var(--faint); font-size: 13px; }
.card .value { font-size: 22px; font-weight: 650; letter-spacing: -0.01em; white-space: nowrap; }
.card .note { color: var(--faint); font-size: 13px; }
.card.main { border-color: var(--blue); box-shadow: inset 3px 0 0 var(--blue); }
img.figure { width: 100%; height: auto; display: block; }
.films { display: flex; flex-wrap: wrap; gap: 18px; }
figure { margin: 0; flex: 0 1 calc(50% - 9px); min-width: 320px; }
figure video, figure img { width: 100%; border-radius: 6px; background: #000; display: block; }
figcaption { color: var(--faint); font-size: 13px; margin-top: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--faint); font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: #f5f7fa; border-radius: 6px; padding: 10px 12px; overflow-x: auto;
  margin: 8px 0 0; }
.warning { border-left: 3px solid #d9822b; padding: 4px 12px; margin: 6px 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr));
  gap: 0 40px; }
details > summary { cursor: pointer; color: var(--faint); }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 8px; }
.scroll { overflow-x: auto; }
"""
