/* What the tables' cells are made of: a link to a page, a run's status, a number in short. */

const cells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
const formats = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});

cells.PageLink = (props) =>
  React.createElement(window.dash_core_components.Link, { href: props.data.href }, props.value);

cells.Status = (props) =>
  React.createElement("span", { className: `status ${props.value}`, title: props.data.message }, props.value);

/* As dashboard/words.py puts it: two decimals for percent, four digits for milliseconds, else
   three, and counts with a prefix. */
formats.shortNumber = (value, unit, prefixes) => {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return value.toFixed(2);
  if (Number.isInteger(value) && Math.abs(value) < 10000) return value.toLocaleString("en");
  let prefix = "";
  for (const next of prefixes ? ["k", "M", "G", "T"] : []) {
    if (Math.abs(value) < 999.5) break;
    value /= 1000;
    prefix = ` ${next}`;
  }
  const significant = unit === "ms" ? 4 : 3;
  const rounded = Math.abs(Number(value.toPrecision(significant)));
  const digits = rounded === 0 ? 0 : Math.min(Math.max(significant - 1 - Math.floor(Math.log10(rounded)), 0), 12);
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + prefix;
};
