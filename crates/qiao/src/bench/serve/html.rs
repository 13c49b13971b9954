//! The throughput against the latency, as one page that needs no network.

use std::fmt::Write;

use qiao_layers::Summary;

use super::super::text::{digits, millis};
use super::report::{PointReport, ServeReport, Share};
use super::settings::Arriving;

/// Width, height and margin of the drawing.
const SIZE: (f64, f64, f64) = (720.0, 380.0, 72.0);

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{overflow-wrap:anywhere}.wide{overflow-x:auto}table{border-collapse:collapse}\
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}\
td.words,th.words{text-align:left}td.why{text-align:left;white-space:normal;min-width:8rem}\
td.bar{min-width:8rem}td.bar i{display:block;height:.8rem;background:#1d4ed8}\
svg{background:#fafafa;border:1px solid #ddd;box-sizing:border-box;display:block;width:100%;min-width:32rem}text{font:12px sans-serif;fill:#333}pre{overflow:auto}\
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg{background:#222}text{fill:#ccc}}";

/// What the columns of the devices' shares are, for those that read from left to right.
const SHARES: [(&str, &str); 9] = [
    ("load", "words"),
    ("device", "words"),
    ("speed", ""),
    ("requests", ""),
    ("taken over", ""),
    ("tokens", ""),
    ("share", ""),
    ("", "words"),
    ("ended", "words"),
];

/// A curve's name, colour, and what of a point it shows.
type Curve = (&'static str, &'static str, fn(&PointReport) -> Option<Summary>);

const CURVES: [Curve; 2] =
    [("TTFT", "#c2410c", |point| point.served.ttft_s), ("TPOT", "#1d4ed8", |point| point.served.tpot_s)];

impl ServeReport {
    /// The report as a page of its own: output tokens per second against the p50 and p99 of TTFT and of TPOT, what each of several
    /// devices had of it, and the tables.
    pub fn to_html(&self) -> String {
        let mut names = self.device.name.clone();
        self.more_devices.iter().for_each(|device| names = format!("{names} and {}", device.name));
        let title = escaped(&format!("{} on {names}", self.model.name));
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        );
        for (name, colour, of) in CURVES {
            page.push_str(&drawing(&self.points, name, colour, of));
        }
        page.push_str(&shares(&self.points));
        writeln!(page, "<pre>{}</pre></html>", escaped(&self.to_string())).ok();
        page
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What each device had of each point; empty where one device had all.
fn shares(points: &[PointReport]) -> String {
    if points.iter().all(|point| point.shares.is_empty()) {
        return String::new();
    }
    let heads: String =
        SHARES.iter().map(|(head, class)| format!("<th class=\"{class}\" scope=\"col\">{head}</th>")).collect();
    let rows: String = points
        .iter()
        .flat_map(|point| {
            let load = point.arriving.to_string();
            point.shares.iter().enumerate().map(move |(i, share)| share_row(if i == 0 { &load } else { "" }, share))
        })
        .collect();
    format!("<h2>Devices</h2><div class=\"wide\"><table><tr>{heads}</tr>{rows}</table></div>")
}

fn share_row(load: &str, share: &Share) -> String {
    let percent = 100.0 * share.share;
    format!(
        "<tr><td class=\"words\">{}</td><td class=\"words\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
<td>{percent:.1} %</td><td class=\"bar\"><i style=\"width:{percent:.1}%\"></i></td><td class=\"why\">{}</td></tr>",
        escaped(load),
        escaped(&share.device),
        digits(share.speed),
        share.requests,
        share.taken_over,
        share.tokens,
        escaped(share.lost.as_deref().unwrap_or("no")),
    )
}

/// One curve for p50 and a dashed one for p99; empty where no point has the figure.
fn drawing(points: &[PointReport], name: &str, colour: &str, of: fn(&PointReport) -> Option<Summary>) -> String {
    let (width, height, margin) = SIZE;
    let known: Vec<(&PointReport, f64, Summary)> =
        points.iter().filter_map(|point| Some((point, point.served.output_tokens_per_s, of(point)?))).collect();
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
    let right = round_up(most(&mut known.iter().map(|k| k.1)));
    let top = round_up(most(&mut known.iter().map(|k| k.2.p99)));
    if known.is_empty() {
        return String::new();
    }
    let x = |rate: f64| margin + rate / right * (width - 2.0 * margin);
    let y = |seconds: f64| height - margin - seconds / top * (height - 2.0 * margin);
    let mut svg = format!(
        "<h2>{name}</h2><div class=\"wide\"><svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{name} against output tokens per second\">"
    );
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let (at, up) = (x(share * right), y(share * top));
        let (left, low, end) = (margin, height - margin, width - margin);
        write!(svg, "<path d=\"M{left} {up:.1}H{end}\" stroke=\"#8884\"/>").ok();
        write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} ms</text>",
            left - 6.0,
            up + 4.0,
            millis(share * top)
        )
        .ok();
        write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            low + 18.0,
            digits(share * right)
        )
        .ok();
    }
    write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">output tokens per second</text>",
        width / 2.0,
        height - 12.0
    )
    .ok();
    // Each way in which requests come has lines of its own.
    for way in known.chunk_by(|a, b| same_way(a.0.arriving, b.0.arriving)) {
        for (dash, label, time) in [("", "p50", (|s| s.p50) as fn(&Summary) -> f64), ("5 4", "p99", |s| s.p99)] {
            let at: Vec<(f64, f64)> = way.iter().map(|k| (x(k.1), y(time(&k.2)))).collect();
            let line: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            write!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>", line.join(" ")).ok();
            for ((x, y), (point, rate, summary)) in at.iter().zip(way) {
                let (load, ms) = (escaped(&point.arriving.to_string()), millis(time(summary)));
                let words = format!("{load}: {} tok/s, {label} {ms} ms", digits(*rate));
                write!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{words}</title></circle>"
                )
                .ok();
                if label == "p99" {
                    write!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{load}</text>", y - 9.0).ok();
                }
            }
            if let Some((x, y)) = at.last() {
                write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{label}</text>", x + 8.0, y + 4.0).ok();
            }
        }
    }
    svg.push_str("</svg></div>");
    svg
}

/// The next number that is 1, 2, 2.5 or 5 times a power of ten.
fn round_up(x: f64) -> f64 {
    let power = 10f64.powf(x.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power).into_iter().find(|n| *n >= x).unwrap_or(x)
}

fn same_way(a: Arriving, b: Arriving) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = [0.97, 1.0, 1.3, 2.2, 3.0, 97.9, 1666.0].map(round_up);
        assert_eq!(ends, [1.0, 1.0, 2.0, 2.5, 5.0, 100.0, 2000.0]);
    }

    #[test]
    fn a_device_that_ended_says_why() {
        let share = Share {
            device: "npu:0".into(),
            speed: 2.5,
            requests: 7,
            taken_over: 3,
            tokens: 90,
            share: 0.9,
            lost: Some("the device <is> lost".into()),
        };
        let row = share_row("3 clients", &share);
        let cells: Vec<&str> = row.split("<td").map(|cell| cell.split_once('>').unwrap().1).collect();
        let words = ["3 clients", "npu:0", "2.50", "7", "3", "90", "90.0 %", "<i style=\"width:90.0%\">"];
        assert!(words.iter().zip(&cells[1..]).all(|(word, cell)| cell.starts_with(word)), "{row}");
        assert!(cells[9].starts_with("the device &lt;is&gt; lost<"), "{row}");
        assert!(share_row("", &Share { lost: None, ..share }).contains("\"why\">no<"));
    }

    #[test]
    fn names_can_not_break_the_page() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
