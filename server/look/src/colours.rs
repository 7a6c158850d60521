//! Tests of the style sheet's colours: text is legible, and parts of one bar or chart differ,
//! including by people who are colour-blind.
use std::collections::BTreeMap;

use crate::STYLE;

/// Linear red, green and blue, 0 to 1.
type Rgb = [f64; 3];

/// Full protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes 2009, table of
/// severity 1.0), after ordinary sight.
const SIGHTS: [(&str, [Rgb; 3]); 4] = [
    ("ordinary", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "protan",
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ),
    (
        "deutan",
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ),
    (
        "tritan",
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ),
];

/// Returns the colours of the light theme and of the dark one.
fn themes() -> [BTreeMap<String, Rgb>; 2] {
    let (light, dark) = STYLE.split_once("prefers-color-scheme: dark").expect("two themes");
    [light, dark].map(|part| {
        let lines = part.lines().filter_map(|line| line.trim().split_once(": #"));
        let named = lines.filter(|(name, _)| name.starts_with("--"));
        named.map(|(name, hex)| (name.to_owned(), rgb(hex.trim_end_matches(';')))).collect()
    })
}

fn rgb(hex: &str) -> Rgb {
    [0, 2, 4].map(|at| {
        let part = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("six digits")) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    })
}

fn product(matrix: &[Rgb; 3], colour: Rgb) -> Rgb {
    matrix.map(|row| row.iter().zip(colour).map(|(one, other)| one * other).sum())
}

/// Returns the distance of two colours in Oklab (Ottosson 2020); black and white are 1 apart.
fn distance(one: Rgb, other: Rgb) -> f64 {
    let lab = |colour: Rgb| {
        let cones = product(
            &[
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ],
            colour.map(|part| part.clamp(0.0, 1.0)),
        );
        product(
            &[
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ],
            cones.map(f64::cbrt),
        )
    };
    lab(one).iter().zip(lab(other)).map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
}

/// Returns the contrast of two colours as WCAG 2 defines it, 1 to 21.
fn contrast(one: Rgb, other: Rgb) -> f64 {
    let light = |[red, green, blue]: Rgb| 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
    let (one, other) = (light(one), light(other));
    one.max(other) / one.min(other)
}

/// Texts have a contrast of at least 4.5 to each of their backgrounds (WCAG 2 AA), and lines and
/// bars one of at least 1.5.
#[test]
fn texts_are_legible() {
    for theme in themes() {
        let grounds = ["--ground", "--panel", "--raised"].map(|name| theme[name]);
        let is_text = |name: &str| {
            name.starts_with("--state-")
                || ["--ink", "--muted", "--accent", "--good", "--warn", "--bad"].contains(&name)
        };
        let is_shape = |name: &str| name.starts_with("--series-") || name.starts_with("--factor-");
        let mut seen = 0;
        for (name, colour) in &theme {
            let least = if is_text(name) { 4.5 } else { 1.5 };
            if is_text(name) || is_shape(name) {
                seen += 1;
                for ground in grounds {
                    let found = contrast(*colour, ground);
                    assert!(found >= least, "{name} {colour:?} on {ground:?}: {found:.2}");
                }
            }
        }
        assert!(seen > 25, "{seen} colours were found");
    }
}

/// The parts of one bar, and the lines of one chart, look different to people with each kind of
/// sight.
#[test]
fn parts_look_different() {
    let mut close = Vec::new();
    for (number, theme) in themes().iter().enumerate() {
        for group in ["--factor-", "--series-"] {
            let parts: Vec<_> = theme.iter().filter(|(name, _)| name.starts_with(group)).collect();
            assert!(parts.len() >= 7, "{group}");
            for (sight, matrix) in &SIGHTS {
                for (at, (name, colour)) in parts.iter().enumerate() {
                    for (other, beside) in &parts[..at] {
                        let found = distance(product(matrix, **colour), product(matrix, **beside));
                        if found < LEAST {
                            let place = format!("theme {number}, {sight}: {name}, {other}");
                            close.push(format!("{place}: {found:.3}"));
                        }
                    }
                }
            }
        }
    }
    assert!(close.is_empty(), "{close:#?}");
}

/// The minimum distance: about twice the just noticeable difference (0.02 in Oklab).
const LEAST: f64 = 0.045;
