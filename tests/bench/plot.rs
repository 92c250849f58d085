//! The plot: for each measure how much better or worse than the baseline everybody is, on a logarithmic scale.

use std::fmt::Write;

use crate::{
    row::{Better, Entry, IOCAST, NATIVE, Outcome, WITHOUT},
    stats::Summary,
};

/// Contenders and their colours, which people tell apart who see few.
const COLOURS: [(&str, &str); 5] = [
    (IOCAST, "#d55e00"),
    ("macvlan", "#0072b2"),
    ("bridge", "#009e73"),
    ("relay", "#cc79a7"),
    ("nft DNAT", "#777777"),
];
const LEFT: f64 = 430.0;
const WIDTH: f64 = 420.0;
const LINE: f64 = 17.0;
const TOP: f64 = 62.0;
/// The scale ends at this many times better, and worse.
const END: f64 = 16.0;

/// An SVG image.
pub(crate) fn draw(outcomes: &[Outcome]) -> String {
    let lines: Vec<_> = outcomes.iter().filter_map(|outcome| Some((outcome, baseline(outcome)?))).collect();
    let headed: Vec<_> = lines.chunk_by(|(one, _), (other, _)| one.section == other.section).collect();
    let height = TOP + LINE * (lines.len() + 2 * headed.len()) as f64 + 10.0;
    let total = LEFT + WIDTH + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend(&mut svg);
    scale(&mut svg, height);
    let mut y = TOP;
    for lines in headed {
        y += LINE * 1.6;
        text(&mut svg, (10.0, y), "start", &format!("font-weight=\"bold\">{}", lines[0].0.section.title()));
        y += LINE * 0.4;
        for (outcome, baseline) in lines {
            y += LINE;
            text(&mut svg, (LEFT - 12.0, y), "end", &format!(">{}, {}", outcome.name, outcome.unit));
            points(&mut svg, outcome, baseline, y - 4.0);
        }
    }
    svg + "</svg>\n"
}

/// Whom everybody is compared with.
fn baseline(outcome: &Outcome) -> Option<&Entry> {
    outcome.contenders.iter().find(|entry| [NATIVE, WITHOUT].contains(&entry.name))
}

fn legend(svg: &mut String) {
    let mut x = 10.0;
    for (name, colour) in COLOURS {
        dot(svg, (x + 4.0, 16.0), colour);
        text(svg, (x + 12.0, 20.0), "start", &format!(">{name}"));
        x += 28.0 + 6.5 * name.len() as f64;
    }
    text(
        svg,
        (10.0, 38.0),
        "start",
        ">in relation to native; unrelated traffic: to an uplink without our programs",
    );
}

/// Lines at powers of two, and what they mean.
fn scale(svg: &mut String, height: f64) {
    for power in -4..=4_i32 {
        let (x, colour) = (place(2f64.powi(power)), if power == 0 { "#555" } else { "#ddd" });
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"{colour}\"/>",
            height - 8.0
        );
        let label = if power < 0 { format!(">1/{}", 1 << -power) } else { format!(">{}", 1 << power) };
        text(svg, (x, TOP - 4.0), "middle", &label);
    }
    text(svg, (LEFT, TOP - 20.0), "start", ">← times worse");
    text(svg, (LEFT + WIDTH, TOP - 20.0), "end", ">times better →");
}

fn points(svg: &mut String, outcome: &Outcome, baseline: &Entry, y: f64) {
    // Ours last, so that it is on top.
    for (name, colour) in COLOURS.iter().rev() {
        let Some(entry) = outcome.contenders.iter().find(|entry| entry.name == *name) else { continue };
        let better = goodness(outcome.better, entry, baseline);
        if better.median.is_nan() {
            continue;
        }
        if entry.name == IOCAST {
            let (from, to) = (place(better.min), place(better.max));
            let _ = writeln!(
                svg,
                "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            );
        }
        dot(svg, (place(better.median), y), colour);
    }
}

/// How many times better than the baseline: of ours the measured ratio, of others that of the medians.
fn goodness(better: Better, entry: &Entry, baseline: &Entry) -> Summary {
    let times = entry.value.median / baseline.value.median;
    let ratio =
        if entry.name == IOCAST { baseline.ratio } else { Summary { min: times, median: times, max: times } };
    if better == Better::Lower { ratio.map(f64::recip) } else { ratio }
}

/// Where on the scale so many times better is.
fn place(times: f64) -> f64 {
    let share = times.clamp(1.0 / END, END).log2() / END.log2();
    LEFT + WIDTH * (share + 1.0) / 2.0
}

fn dot(svg: &mut String, (x, y): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.85\"/>"
    );
}

/// Text whose markup goes on with attributes, `>` and content.
fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, rest: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {rest}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_symmetric_and_ends() {
        assert_eq!(place(1.0), LEFT + WIDTH / 2.0);
        assert_eq!(place(4.0) - place(1.0), place(1.0) - place(0.25));
        assert_eq!(place(1e9), LEFT + WIDTH);
    }

    #[test]
    fn less_latency_is_to_the_right_and_less_throughput_to_the_left() {
        let value = |median| Summary { min: median, median, max: median };
        let (ours, theirs) = (
            Entry { name: IOCAST, value: value(5.0), ratio: value(1.0) },
            Entry { name: NATIVE, value: value(10.0), ratio: value(0.5) },
        );
        assert_eq!(goodness(Better::Lower, &ours, &theirs).median, 2.0);
        assert_eq!(goodness(Better::Higher, &ours, &theirs).median, 0.5);
    }
}
