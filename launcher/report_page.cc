#include "launcher/report_page.h"

#include "absl/strings/str_cat.h"
#include "launcher/svg.h"

namespace longspan {
namespace {

constexpr absl::string_view kStyle = R"(
:root{color-scheme:light dark;--ink:#20252b;--soft:#5a6068;--page:#fff;--line:#d9dce0;--bad:#b00020;--good:#00694a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a4abb3;--page:#15181c;--line:#3a4047;--bad:#ff8a8a;--good:#6fd6b0}
svg .ink{fill:#e6e8eb}svg .axis{stroke:#a4abb3}svg .grid{stroke:#30353b}svg .ideal{stroke:#7d858e}svg .hollow{fill:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1200px;margin:0 auto;padding:16px}
h1{font-size:1.5em;margin:.2em 0}h2{font-size:1.15em;margin:1.6em 0 .4em}p{margin:.4em 0;max-width:75ch}.soft{color:var(--soft)}
.figures{display:flex;flex-wrap:wrap;gap:24px}figure{margin:0;flex:1 1 340px;max-width:560px;min-width:0}svg{width:100%;height:auto;display:block}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;white-space:normal;vertical-align:bottom}td:first-child,th:first-child{text-align:left}
.bad{color:var(--bad);font-weight:700}.good{color:var(--good)}.digest{font-family:monospace}
.note{border-left:4px solid #e69f00;padding:.3em .8em}dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 12px;font-size:13px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media print{:root{--ink:#000;--page:#fff;--line:#ccc;--soft:#444}body{max-width:none;padding:0;font-size:10pt}
figure,tr{break-inside:avoid}.wide{overflow:visible}table{font-size:5.5pt}th,td{padding:1px 2px}
svg .ink{fill:#000}svg .axis,svg .ideal{stroke:#444}svg .grid{stroke:#ddd}svg .hollow{fill:#fff}}
)";

}  // namespace

std::string Grouped(int64_t number) {
  if (number < 1000) return absl::StrCat(number);
  return absl::StrCat(Grouped(number / 1000), ",", absl::Dec(number % 1000, absl::kZeroPad3));
}

std::string PageHead(absl::string_view title) {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
      Element("title", "", title), "\n<style>", kStyle, "</style></head>\n");
}

std::string Element(absl::string_view tag, absl::string_view style_class, absl::string_view text) {
  return absl::StrCat("<", tag,
                      style_class.empty() ? "" : absl::StrCat(" class=\"", style_class, "\""), ">",
                      EscapeMarkup(text), "</", tag, ">");
}

std::string Paragraph(absl::string_view style_class, absl::string_view text) {
  return Element("p", style_class, text) + "\n";
}

std::string Terms(const std::vector<std::pair<std::string, std::string>>& terms) {
  std::string text = "<dl>\n";
  for (const auto& [term, value] : terms) {
    absl::StrAppend(&text, Element("dt", "", term), Element("dd", "", value), "\n");
  }
  return text + "</dl>\n";
}

std::string Figures(const std::vector<std::string>& figures) {
  std::string text = "<div class=\"figures\">\n";
  for (const std::string& figure : figures) {
    absl::StrAppend(&text, "<figure>\n", figure, "</figure>\n");
  }
  return text + "</div>\n";
}

}  // namespace longspan
