//! The plots. One shows how far everything with a goal is from it, on a logarithmic scale, with the goals in one line; the other
//! what growth costs.

use std::fmt::Write;

use crate::{
    row::{Entry, Goal, Judged, NATIVE, Outcome, Section, WITHOUT},
    stats::{Summary, number},
};

/// Others that are shown beside us, and their colours, which people tell apart who see few.
const OTHERS: [(&str, &str); 7] = [
    (NATIVE, "#000000"),
    ("nft DNAT", "#777777"),
    ("macvlan", "#0072b2"),
    ("bridge", "#56b4e9"),
    ("relay", "#cc79a7"),
    ("routed", "#e69f00"),
    (WITHOUT, "#b5a642"),
];
const MET: &str = "#009e73";
const MISSED: &str = "#d55e00";
/// Two columns fill a screen.
const COLUMNS: usize = 2;
const COLUMN: f64 = 700.0;
/// In a column: where labels end, where the scale begins and how wide it is, where numbers begin.
const LABEL: f64 = 250.0;
const SCALE: f64 = 262.0;
const WIDTH: f64 = 250.0;
const NUMBER: f64 = 520.0;
const LINE: f64 = 13.0;
const TOP: f64 = 48.0;
/// The scale ends at this many times better, and worse.
const END: f64 = 8.0;

/// Everything that has a goal, as an SVG image.
pub(crate) fn goals(outcomes: &[Outcome]) -> String {
    let shown: Vec<_> = outcomes.iter().filter_map(|outcome| Some((outcome, shown(outcome)?))).collect();
    let groups: Vec<_> = shown.chunk_by(|(one, _), (other, _)| one.section == other.section).collect();
    let columns = columns(&groups);
    let lines = |groups: &[&[(&Outcome, &Judged)]]| groups.iter().map(|group| group.len() + 2).sum::<usize>();
    let longest = columns.iter().map(|groups| lines(groups)).max().unwrap_or(0);
    let height = TOP + LINE * (longest + 1) as f64;
    let mut svg = start(COLUMN * COLUMNS as f64, height);
    legend(&mut svg);
    for (groups, left) in columns.iter().zip((0..).map(|column| COLUMN * f64::from(column))) {
        scale(&mut svg, left, TOP + LINE * (lines(groups) as f64));
        let mut y = TOP;
        for group in *groups {
            y += LINE * 1.5;
            text(&mut svg, (left + 8.0, y), "start", "font-weight=\"bold\"", group[0].0.section.title());
            y += LINE * 0.5;
            for (outcome, judged) in *group {
                y += LINE;
                line(&mut svg, (left, y), outcome, judged);
            }
        }
    }
    svg + "</svg>\n"
}

/// The goal by which an outcome is shown. That all copies arrive is told of the largest bursts, and where they do not.
fn shown(outcome: &Outcome) -> Option<&Judged> {
    let judged = outcome.goals.first()?;
    let largest = ["250 pods, all listen, burst of 900", "500 pods, all listen, burst of 256"];
    let told = outcome.section != Section::Delivered || !judged.met || largest.contains(&&*outcome.name);
    told.then_some(judged)
}

/// Groups in columns that are about as long.
fn columns<'a, T>(groups: &'a [&'a [T]]) -> [&'a [&'a [T]]; COLUMNS] {
    let size = |groups: &[&[T]]| groups.iter().map(|group| group.len() + 2).sum::<usize>();
    let half = size(groups) / 2;
    let place = (0..groups.len()).find(|place| size(&groups[..*place]) >= half).unwrap_or(groups.len());
    let (left, right) = groups.split_at(place);
    [left, right]
}

pub(crate) fn start(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

fn legend(svg: &mut String) {
    let mut x = 12.0;
    for (name, colour) in [("iocast, goal met", MET), ("iocast, goal missed", MISSED)] {
        dot(svg, (x, 14.0), 4.0, colour);
        text(svg, (x + 8.0, 18.0), "start", "", name);
        x += 26.0 + 5.6 * name.len() as f64;
    }
    for (name, colour) in OTHERS {
        ring(svg, (x, 14.0), colour);
        text(svg, (x + 8.0, 18.0), "start", "", name);
        x += 26.0 + 5.6 * name.len() as f64;
    }
}

/// Lines at powers of two, and the goal.
fn scale(svg: &mut String, left: f64, bottom: f64) {
    for power in -3..=3_i32 {
        let x = left + place(2f64.powi(power));
        let (colour, width) = if power == 0 { ("#333", 2) } else { ("#ddd", 1) };
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
        let label = match power {
            0 => "goal".into(),
            ..0 => format!("1/{}", 1 << -power),
            _ => format!("{}×", 1 << power),
        };
        text(svg, (x, TOP - 4.0), "middle", "", &label);
    }
    text(svg, (left + SCALE, TOP - 16.0), "start", "fill=\"#777\"", "← worse than the goal");
    text(svg, (left + SCALE + WIDTH, TOP - 16.0), "end", "fill=\"#777\"", "better →");
}

fn line(svg: &mut String, (left, y): (f64, f64), outcome: &Outcome, judged: &Judged) {
    let at = |times: f64| left + place(times);
    let (colour, middle) = (if judged.met { MET } else { MISSED }, y - 3.5);
    text(svg, (left + LABEL, y), "end", "", &outcome.label());
    for entry in outcome.contenders.iter().skip(1) {
        let Some((_, colour)) = OTHERS.iter().find(|(name, _)| *name == entry.name) else { continue };
        let times = better(judged.wanted, others(judged.wanted, entry, outcome));
        if !times.is_nan() {
            ring(svg, (at(times), middle), colour);
        }
    }
    let Some(found) = judged.found else { return };
    let [from, median, to] =
        [found.min, found.median, found.max].map(|found| at(better(judged.wanted, found)));
    let _ = writeln!(
        svg,
        "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
    dot(svg, (median, middle), 4.0, colour);
    let value = number(found.median);
    let unit = if matches!(judged.wanted, Goal::AtMost(_) | Goal::AtLeast(_)) { outcome.unit } else { "×" };
    text(
        svg,
        (left + NUMBER, y),
        "start",
        &format!("fill=\"{colour}\""),
        &format!("{value} {unit}, goal {}", judged.goal),
    );
}

/// What another contender has of what the goal speaks of.
fn others(goal: Goal, entry: &Entry, outcome: &Outcome) -> f64 {
    let base = |name: &str| outcome.contenders.iter().find(|entry| entry.name == name);
    match goal {
        Goal::AtMost(_) | Goal::AtLeast(_) => entry.value.median,
        Goal::TimesAtMost(name, _) | Goal::TimesAtLeast(name, _) => {
            base(name).map_or(f64::NAN, |base| entry.value.median / base.value.median)
        }
    }
}

/// How many times better than the goal this is.
fn better(goal: Goal, found: f64) -> f64 {
    match goal {
        Goal::AtMost(limit) | Goal::TimesAtMost(_, limit) if found == limit => 1.0,
        Goal::AtMost(limit) | Goal::TimesAtMost(_, limit) => limit / found,
        Goal::AtLeast(limit) | Goal::TimesAtLeast(_, limit) => found / limit,
    }
}

/// Where in a column so many times better is.
fn place(times: f64) -> f64 {
    let share = times.clamp(1.0 / END, END).log2() / END.log2();
    SCALE + WIDTH * (share + 1.0) / 2.0
}

pub(crate) fn dot(svg: &mut String, (x, y): (f64, f64), radius: f64, colour: &str) {
    let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>");
}

fn ring(svg: &mut String, (x, y): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"white\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
    );
}

pub(crate) fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, attributes: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {attributes}>{content}</text>"
    );
}

/// Size of a panel, and of what is drawn in it.
const PANEL: (f64, f64) = (330.0, 190.0);
const INNER: (f64, f64) = (270.0, 120.0);
/// Lines of a panel.
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// A panel for each thing that grows: what the rest costs beside its lowest level.
pub(crate) fn growth(outcomes: &[Outcome]) -> String {
    let grown: Vec<_> = outcomes.iter().filter(|outcome| outcome.section.is_growth()).collect();
    let panels: Vec<_> = grown.chunk_by(|one, other| one.section == other.section).collect();
    let mut svg = start(3.0 * PANEL.0, (panels.len().div_ceil(3) as f64) * PANEL.1);
    for (number, panel) in panels.into_iter().enumerate() {
        let place = ((number % 3) as f64 * PANEL.0 + 40.0, (number / 3) as f64 * PANEL.1 + 30.0);
        draw(&mut svg, place, panel);
    }
    svg + "</svg>\n"
}

/// One line: levels, and costs beside that of the lowest.
type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// The curves of a panel; those of the same name, measured at different times, are one.
fn curves<'a>(panel: &[&'a Outcome]) -> Vec<Curve<'a>> {
    let mut curves: Vec<Curve> = vec![];
    for outcome in panel {
        let Some(lowest) = outcome.contenders.last() else { continue };
        let point = |entry: &Entry| {
            let level = entry.name.replace(' ', "").parse::<f64>().unwrap_or(f64::NAN);
            // Beside us, the first, each entry has a ratio; that of the lowest is the one that counts.
            let times = lowest.ratio.median / entry.ratio.median;
            (level, times)
        };
        let points = outcome.contenders.iter().map(point).filter(|(_, times)| times.is_finite());
        match curves.iter_mut().find(|(name, _)| *name == outcome.name) {
            Some((_, known)) => known.extend(points),
            None => curves.push((&outcome.name, points.collect())),
        }
    }
    for (_, points) in &mut curves {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    curves.retain(|(_, points)| points.len() > 1);
    curves
}

fn draw(svg: &mut String, (left, top): (f64, f64), panel: &[&Outcome]) {
    let curves = curves(panel);
    let points = || curves.iter().flat_map(|(_, points)| points);
    let levels = Summary::of(&points().map(|(level, _)| *level).collect::<Vec<_>>());
    let most = points().map(|(_, times)| *times).fold(2.0, f64::max);
    let x =
        |level: f64| left + INNER.0 * (level / levels.min).ln() / (levels.max / levels.min).ln().max(1e-9);
    let y = |times: f64| top + INNER.1 * (1.0 - times / most);
    text(svg, (left, top - 10.0), "start", "font-weight=\"bold\"", panel[0].section.title());
    for (times, label) in [(0.0, "0"), (1.0, "1×"), (most, &*format!("{most:.1}×"))] {
        let at = y(times);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ccc\"/>",
            left + INNER.0
        );
        text(svg, (left - 4.0, at + 3.0), "end", "", label);
    }
    for entry in panel.iter().flat_map(|outcome| &outcome.contenders) {
        let level = entry.name.replace(' ', "").parse().unwrap_or(f64::NAN);
        text(svg, (x(level), top + INNER.1 + 12.0), "middle", "", entry.name);
    }
    for (number, (name, points)) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let path: Vec<_> =
            points.iter().map(|(level, times)| format!("{:.1},{:.1}", x(*level), y(*times))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        points.iter().for_each(|(level, times)| dot(svg, (x(*level), y(*times)), 2.5, colour));
        let at = (left + 4.0, top + INNER.1 - 6.0 - 11.0 * number as f64);
        text(svg, at, "start", &format!("fill=\"{colour}\""), name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Better;

    fn entry(name: &'static str, value: f64, ratio: f64) -> Entry {
        let of = |median| Summary { min: median, median, max: median };
        Entry { name, value: of(value), ratio: of(ratio) }
    }

    fn outcome(section: Section, contenders: Vec<Entry>) -> Outcome {
        Outcome { section, name: "x".into(), unit: "µs", better: Better::Lower, contenders, goals: vec![] }
    }

    #[test]
    fn the_scale_is_symmetric_about_the_goal_and_ends() {
        assert_eq!(place(1.0), SCALE + WIDTH / 2.0);
        assert_eq!(place(4.0) - place(1.0), place(1.0) - place(0.25));
        assert_eq!(place(f64::INFINITY), SCALE + WIDTH);
    }

    #[test]
    fn what_meets_its_goal_is_on_the_right() {
        assert_eq!(better(Goal::AtMost(30.0), 15.0), 2.0);
        assert_eq!(better(Goal::TimesAtLeast(NATIVE, 0.9), 0.45), 0.5);
        assert_eq!(better(Goal::AtMost(0.0), 0.0), 1.0);
        assert_eq!(better(Goal::AtMost(0.0), 3.0), 0.0);
    }

    #[test]
    fn others_stand_where_they_would_be_judged() {
        let outcome = outcome(Section::Latency, vec![entry("iocast", 6.0, 1.0), entry(NATIVE, 4.0, 1.5)]);
        assert_eq!(others(Goal::TimesAtMost(NATIVE, 1.3), &outcome.contenders[1], &outcome), 1.0);
        assert_eq!(others(Goal::AtMost(5.0), &outcome.contenders[1], &outcome), 4.0);
    }

    #[test]
    fn a_curve_goes_through_outcomes_of_the_same_name() {
        let of =
            |name, ratio| outcome(Section::PodGrowth, vec![entry(name, 2.0, 1.0), entry("10", 1.0, ratio)]);
        let (one, other) = (of("110", 1.1), of("500", 1.2));
        let found = curves(&[&one, &other]);
        assert_eq!(found, [("x", vec![(10.0, 1.0), (10.0, 1.0), (110.0, 1.1), (500.0, 1.2)])]);
    }
}
