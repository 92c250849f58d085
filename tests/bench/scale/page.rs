//! The page about a large site, and its picture.

use std::fmt::Write;

use super::{
    Costs,
    model::{Design, Load, Scene, Site, TIME},
};
use crate::{plot, report::aligned, stats::number};

/// Twenty beamlines, each with its subnet.
const SITE: Site = Site { subnets: 20, nodes: 5, pods: 20 };
/// Names that an archiver looks for.
const ARCHIVED: usize = 75_000;
const SCENES: [(&str, &str, Scene); 4] = [
    (
        "An archiver starts",
        "An archiver in one subnet looks for 75 000 PVs of all 2000 IOCs, in the order of their names. One in twenty is not there, \
         and is looked for again after 1, 3, 7, 15 and 31 s, as libca does.",
        Scene::Archiver { names: ARCHIVED, sorted: true },
    ),
    (
        "An archiver starts, names in any order",
        "The same, but each search holds names of twenty IOCs anywhere, so that the beginnings of names keep little back.",
        Scene::Archiver { names: ARCHIVED, sorted: false },
    ),
    (
        "All IOCs are switched on",
        "Within 30 s, each with its beacons, of which there are many at first. They have the archiver look for what it has not \
         found yet once a second.",
        Scene::PowerUp { names: ARCHIVED },
    ),
    (
        "Nothing happens",
        "In each subnet clients look for 100 000 PVs of their own subnet, of which one in twenty has not been there since long \
         ago: each is looked for every 5 minutes, the longest that libca waits.",
        Scene::Dead,
    ),
];
/// Colours, and how wide a line is: those below others are wider, as some are the same.
const LINES: [(Design, &str, f64); 5] = [
    (Design::Flat, "#000000", 6.0),
    (Design::Gateways, "#e69f00", 3.5),
    (Design::Mesh, "#cc79a7", 1.5),
    (Design::Relay, "#56b4e9", 1.5),
    (Design::Prefixes, "#009e73", 1.5),
];
/// Size of a panel, and of what is drawn in it.
const PANEL: (f64, f64) = (420.0, 220.0);
const INNER: (f64, f64) = (350.0, 150.0);
/// The logarithm of the least value that is shown.
const LEAST: f64 = -1.0;

/// A scene under a design.
pub(super) struct Result {
    scene: usize,
    design: Design,
    /// By second: the most that comes to a node's link in another subnet than the first, the mean of all pods, the busiest node's processor time in per cent of one
    /// processor, and what crosses at the busiest relaying node.
    link: Vec<f64>,
    pod: Vec<f64>,
    processor: Vec<f64>,
    crossing: Vec<f64>,
}

/// All scenes under all designs.
pub(super) fn simulate(costs: &Costs) -> Vec<Result> {
    let mut results = vec![];
    for (scene, (.., what)) in SCENES.iter().enumerate() {
        let datagrams = SITE.datagrams(*what);
        for design in Design::ALL {
            results.push(result(scene, design, &SITE.load(design, &datagrams), costs));
        }
    }
    results
}

fn result(scene: usize, design: Design, load: &Load, costs: &Costs) -> Result {
    let most = |first: usize, of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..TIME)
            .map(|second| (first..SITE.subnets).map(|subnet| of(subnet, second)).fold(0.0, f64::max))
            .collect()
    };
    let all: Vec<f64> = (0..TIME)
        .map(|second| load.pods.iter().map(|subnet| subnet[second]).sum::<f64>() / SITE.iocs() as f64)
        .collect();
    let of_ioc = if design == Design::Flat { costs.native } else { costs.pod };
    let withheld = if design == Design::Prefixes { costs.withheld } else { 0.0 };
    let processor = |subnet: usize, second: usize| {
        let given = load.pods[subnet][second] / SITE.nodes as f64;
        let microseconds = given * of_ioc + load.link[subnet][second] * withheld;
        microseconds / 1e6 * 100.0
    };
    Result {
        scene,
        design,
        link: most(1, &|subnet, second| load.link[subnet][second]),
        pod: all,
        processor: most(0, &processor),
        crossing: most(0, &|subnet, second| load.crossing[subnet][second]),
    }
}

fn peak(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The page, in Markdown.
pub(super) fn page(costs: &Costs, results: &[Result]) -> String {
    let mut text = String::from(include_str!("preface.md"));
    let Costs { pod, native, withheld, crossing } = *costs;
    let inputs = [
        ("a search for 20 names in a pod: the copy, and an IOC that has none of them", pod),
        ("the same search, an IOC with hostNetwork", native),
        ("the same search, a node whose ten pods say that they have none of the names", withheld),
        ("a search that crosses, at each of the two relaying nodes", crossing),
    ];
    let mut lines = vec![vec!["measured".to_owned(), "µs".to_owned()]];
    lines.extend(inputs.map(|(what, cost)| vec![what.to_owned(), number(cost)]));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{}\n![What a pod is given each second](scale.svg)\n", aligned(&lines));
    for (scene, (title, about, _)) in SCENES.iter().enumerate() {
        let results = results.iter().filter(|result| result.scene == scene);
        let head = [
            "",
            "link, peak",
            "link, mean",
            "a pod, peak",
            "a pod, mean",
            "processor, peak",
            "processor, mean",
            "crossing, peak",
            "relaying, peak",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        lines.extend(results.map(|result| line(result, costs)));
        let _ = writeln!(text, "## {title}\n\n{about}\n\n{}", aligned(&lines));
    }
    text
}

fn line(result: &Result, costs: &Costs) -> Vec<String> {
    let Result { design, link, pod, processor, crossing, .. } = result;
    let per_cent = |value: f64| format!("{} %", number(value));
    let is_ours = [Design::Relay, Design::Prefixes].contains(design);
    let relaying = if is_ours { per_cent(peak(crossing) * costs.crossing / 1e4) } else { "-".into() };
    let crossing = if *design == Design::Flat { "-".into() } else { number(peak(crossing)) };
    vec![
        design.name().into(),
        number(peak(link)),
        number(mean(link)),
        number(peak(pod)),
        number(mean(pod)),
        per_cent(peak(processor)),
        per_cent(mean(processor)),
        crossing,
        relaying,
    ]
}

/// What a pod is given, second by second, on a logarithmic scale: a panel for each scene.
pub(super) fn plot(results: &[Result]) -> String {
    let mut svg = plot::start(2.0 * PANEL.0, 2.0 * PANEL.1 + 40.0);
    for (number, (design, colour, _)) in LINES.iter().enumerate() {
        let x = 16.0 + 160.0 * number as f64;
        plot::dot(&mut svg, (x, 14.0), 4.0, colour);
        plot::text(&mut svg, (x + 8.0, 18.0), "start", "", design.name());
    }
    plot::text(&mut svg, (16.0, 38.0), "start", "fill=\"#777\"", "datagrams a second that a pod is given");
    for (scene, (title, ..)) in SCENES.iter().enumerate() {
        let of_scene: Vec<_> = results.iter().filter(|result| result.scene == scene).collect();
        let (column, row) = ((scene % 2) as f64, (scene / 2) as f64);
        panel(&mut svg, (column * PANEL.0 + 50.0, row * PANEL.1 + 75.0), title, &of_scene);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, (left, top): (f64, f64), title: &str, results: &[&Result]) {
    let most = results.iter().map(|result| peak(&result.pod)).fold(1.0, f64::max).log10().ceil();
    let y = |decade: f64| top + INNER.1 * ((most - decade) / (most - LEAST)).clamp(0.0, 1.0);
    let x = |second: usize| left + INNER.0 * second as f64 / (TIME - 1) as f64;
    plot::text(svg, (left, top - 10.0), "start", "font-weight=\"bold\"", title);
    for decade in LEAST as i32..=most as i32 {
        let (at, right) = (y(decade.into()), left + INNER.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
        );
        plot::text(svg, (left - 4.0, at + 3.0), "end", "", &number(10f64.powi(decade)));
    }
    for second in (0..TIME).step_by(10) {
        plot::text(svg, (x(second), top + INNER.1 + 12.0), "middle", "", &format!("{second} s"));
    }
    for (design, colour, width) in LINES {
        let values = results.iter().filter(|result| result.design == design).flat_map(|result| &result.pod);
        let points: Vec<_> = values
            .enumerate()
            .map(|(second, value)| format!("{:.1},{:.1}", x(second), y(value.max(1e-9).log10())))
            .collect();
        let points = points.join(" ");
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_all_scenes_and_prefixes_save_what_they_can() {
        let costs = Costs { pod: 20.0, native: 18.0, withheld: 5.0, crossing: 4.0 };
        let results = simulate(&costs);
        assert_eq!(results.len(), SCENES.len() * Design::ALL.len());
        let of = |scene: usize, design: Design| {
            results.iter().find(|result| result.scene == scene && result.design == design).unwrap()
        };
        for scene in 0..SCENES.len() {
            assert!(peak(&of(scene, Design::Prefixes).pod) <= peak(&of(scene, Design::Relay).pod));
            assert!(peak(&of(scene, Design::Relay).pod) <= peak(&of(scene, Design::Mesh).pod));
        }
        let page = page(&costs, &results);
        assert!(SCENES.iter().all(|(title, ..)| page.contains(title)), "{page}");
        assert!(plot(&results).ends_with("</svg>\n"));
    }
}
