//! The pictures of README, drawn from what they show; `NOSHI_REDRAW=1` draws them. They read on light and dark.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
.small { font-size: 11px; fill: #59636e }
.left { text-anchor: start }
.box { fill: #f6f8fa; stroke: #59636e; stroke-width: 1.2 }
.end { fill: #dafbe1; stroke: #1a7f37 }
.doubt { fill: #fff8c5; stroke: #9a6700 }
.way { fill: none; stroke: #59636e; stroke-width: 1.2; marker-end: url(#tip) }
.in_doubt { stroke: #9a6700; stroke-dasharray: 5 3 }
.tip { fill: #59636e }
.asks { fill: #cf222e }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 } .box { fill: #151b23; stroke: #9198a1 } .end { fill: #12261e; stroke: #3fb950 }
.doubt { fill: #272115; stroke: #d29922 } .way { stroke: #9198a1 } .in_doubt { stroke: #d29922 } .tip { fill: #9198a1 } .asks { fill: #f85149 }
}
</style>
<defs><marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"tip\" d=\"M0 0L10 5L0 10z\"/></marker></defs>
";

fn svg(width: i32, height: i32, what: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>{what}</title>\n{STYLE}{body}</svg>\n"
    )
}

fn is_drawn(name: &str, picture: &str) {
    crate::support::is_as_drawn(&format!("ops/pictures/{name}"), picture);
}

fn label(out: &mut String, class: &str, x: i32, y: i32, text: &str) {
    writeln!(out, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>").unwrap();
}

/// The way of a job, and the files that a reader finds it in.
#[test]
fn the_path_of_a_job() {
    let boxes = [
        (10, "producer", ["SQL, HTTP, CSV", "in its own transaction"]),
        (220, "PostgreSQL", ["jobs, lanes, journal,", "facts: one commit a step"]),
        (450, "workers", ["a lease, a fence,", "a token for each call"]),
        (680, "partners", ["one call; an answer,", "or nobody knows"]),
    ];
    let mut out = String::new();
    for (x, name, lines) in boxes {
        writeln!(out, "<rect class=\"box\" x=\"{x}\" y=\"40\" width=\"150\" height=\"76\" rx=\"8\"/>").unwrap();
        label(&mut out, "", x + 75, 64, name);
        for (n, line) in (0..).zip(lines) {
            label(&mut out, "small", x + 75, 84 + 16 * n, line);
        }
    }
    let ways = [
        (160, 220, 78, "", "migrations/0007_enqueue.sql", 190, 30),
        (370, 450, 62, "", "src/engine/dispatcher.rs", 410, 30),
        (450, 370, 96, "", "src/db/queue/settle.rs", 410, 132),
        (600, 680, 62, "", "src/partners", 640, 30),
        (680, 600, 96, " in_doubt", "", 0, 0),
    ];
    for (from, to, y, class, file, x, text_y) in ways {
        writeln!(out, "<path class=\"way{class}\" d=\"M{from} {y}H{to}\"/>").unwrap();
        if !file.is_empty() {
            assert!(Path::new(ROOT).join(file).exists(), "{file} is no file of ours");
            label(&mut out, "small", x, text_y, file);
        }
    }
    label(&mut out, "small", 640, 132, "no answer: asked (照会), never repeated blindly");
    is_drawn("path.svg", &svg(840, 146, "producer, PostgreSQL, workers, partners", &out));
}

/// From where to where a gift goes, and whether it goes there in doubt; and where it may stop for a person.
fn transitions() -> (BTreeMap<(String, String), bool>, BTreeSet<String>) {
    let file = fs::read_to_string(Path::new(ROOT).join("jobs/gift_issuance.rs")).unwrap();
    let (mut ways, mut asks) = (BTreeMap::new(), BTreeSet::new());
    let header = file.lines().map_while(|line| line.strip_prefix("//!"));
    for row in header.skip_while(|row| !row.starts_with(" | at | answer |")).filter(|row| row.starts_with(" | ")) {
        let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
        for answer in cells[3..].iter().map(|cell| cell.trim_start_matches("no call: ")) {
            let to = ["→ ", "done: ", "fail: "].iter().find_map(|lead| answer.strip_prefix(lead));
            if answer.starts_with("ask (") {
                asks.insert(cells[0].to_owned());
            }
            let Some(to) = to.and_then(|to| to.split([' ', ',']).next()) else { continue };
            let in_doubt: &mut bool = ways.entry((cells[0].to_owned(), to.to_owned())).or_default();
            *in_doubt |= answer.ends_with('?');
        }
    }
    ways.retain(|(from, to), _| from != to);
    (ways, asks)
}

#[test]
fn the_states_of_a_gift() {
    const WIDE: i32 = 104;
    let places: BTreeMap<&str, (i32, i32, &str)> = BTreeMap::from([
        ("routing", (70, 110, "")),
        ("issuing", (270, 110, "")),
        ("pending", (480, 110, "")),
        ("issued", (700, 50, " end")),
        ("inquiring", (270, 300, " doubt")),
        ("cancelling", (480, 210, " doubt")),
        ("void", (700, 170, "")),
        ("rejected", (700, 300, " end")),
        ("lapsed", (70, 30, " end")),
        ("seeking", (70, 300, " doubt")),
        ("asking", (70, 370, " doubt")),
    ]);
    let (ways, asks) = transitions();
    let states: BTreeSet<&str> = ways.keys().flat_map(|(from, to)| [from.as_str(), to.as_str()]).collect();
    assert_eq!(states, places.keys().copied().collect(), "a state without a place in the picture");
    let mut out = String::new();
    for ((from, to), in_doubt) in &ways {
        let ((x, y, _), (to_x, to_y, _)) = (places[from.as_str()], places[to.as_str()]);
        // Two that lead to each other run side by side.
        let aside = if ways.contains_key(&(to.clone(), from.clone())) { 7 } else { 0 };
        let (mut from_at, mut to_at) = match (to_x - x, to_y - y) {
            (0, down) => ((x, y + 17 * down.signum()), (to_x, to_y - 17 * down.signum())),
            (right, _) => ((x + WIDE / 2 * right.signum(), y), (to_x - WIDE / 2 * right.signum(), to_y)),
        };
        let (dx, dy) = if x == to_x { ((to_y - y).signum() * aside, 0) } else { (0, (to_x - x).signum() * aside) };
        from_at = (from_at.0 + dx, from_at.1 + dy);
        to_at = (to_at.0 + dx, to_at.1 + dy);
        let class = if *in_doubt { " in_doubt" } else { "" };
        writeln!(out, "<path class=\"way{class}\" d=\"M{} {}L{} {}\"/>", from_at.0, from_at.1, to_at.0, to_at.1)
            .unwrap();
    }
    for (state, (x, y, class)) in &places {
        writeln!(
            out,
            "<rect class=\"box{class}\" x=\"{}\" y=\"{}\" width=\"{WIDE}\" height=\"34\" rx=\"17\"/>",
            x - WIDE / 2,
            y - 17
        )
        .unwrap();
        label(&mut out, "", *x, y + 5, state);
        if asks.contains(*state) {
            writeln!(out, "<circle class=\"asks\" cx=\"{}\" cy=\"{}\" r=\"4.5\"/>", x + 40, y - 13).unwrap();
        }
    }
    writeln!(out, "<circle class=\"asks\" cx=\"222\" cy=\"366\" r=\"4.5\"/>").unwrap();
    label(&mut out, "small left", 234, 370, "may stop here for an operator");
    writeln!(out, "<path class=\"way in_doubt\" d=\"M440 366H476\"/>").unwrap();
    label(&mut out, "small left", 486, 370, "in doubt: the money may have moved, and the partner is asked");
    is_drawn("gift.svg", &svg(830, 396, "the states of a gift", &out));
}
