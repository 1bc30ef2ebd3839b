//! Divergences as people read them: a table, and a plot of KL against bytes.

use std::fmt::Write;

use plotters::prelude::*;
use sparkv::KvOptions;

use super::Summary;

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (900, 560);

/// KL that counts as none, since a logarithm has to end somewhere.
const LEAST: f64 = 1e-6;

/// A Markdown table, a row for each settings.
pub fn table(summaries: &[Summary]) -> String {
    let mut text = String::from(
        "| kv_cache | KV bytes (of dense f16) | KL, nats a token (95 %) | one in 1,000 above | same likeliest token | loss, nats | beaten by |\n\
         |---|---:|---:|---:|---:|---:|---|\n",
    );
    for summary in summaries {
        let Summary {
            kv, kl, kl_interval: [low, high], kl_p999, same_top, loss_difference, kv_share, ..
        } = summary;
        let (share, same) = (100.0 * kv_share, 100.0 * same_top);
        let beaten_by = summary.beaten_by.join(", ");
        let _ = writeln!(
            text,
            "| {kv} | {share:.1} % | {kl:.5} ({low:.5} to {high:.5}) | {kl_p999:.3} | {same:.1} % | {loss_difference:+.4} | {beaten_by} |"
        );
    }
    text
}

/// An SVG of KL against bytes, both measured, with a line for each family of settings.
///
/// # Errors
/// If there is nothing to draw, or it cannot be drawn; a message.
pub fn plot(summaries: &[Summary]) -> Result<String, String> {
    let points: Vec<(f64, f64)> = summaries.iter().map(|s| (100.0 * s.kv_share, s.kl.max(LEAST))).collect();
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (_, widest) = range(&mut points.iter().map(|point| point.0));
    let (lowest, highest) = range(&mut points.iter().map(|point| point.1));
    if points.is_empty() {
        return Err("nothing was measured".to_owned());
    }
    let mut svg = String::new();
    draw(summaries, &mut svg, widest, (lowest, highest)).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(
    summaries: &[Summary],
    svg: &mut String,
    widest: f64,
    (lowest, highest): (f64, f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .caption("Next-token KL against the full cache, by bytes held", ("sans-serif", 18))
        .build_cartesian_2d(0.0..widest * 1.15, (lowest / 2.0..highest * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("KV bytes, % of dense f16")
        .y_desc("KL, nats a token")
        .y_label_formatter(&|kl| format!("{kl:.0e}"))
        .label_style(("sans-serif", 12))
        .draw()?;
    let mut families: Vec<&str> = summaries.iter().map(|summary| summary.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    for (index, family) in families.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let mut members: Vec<&Summary> =
            summaries.iter().filter(|summary| summary.family == family).collect();
        members.sort_by(|a, b| a.kv_share.total_cmp(&b.kv_share));
        let at = |summary: &Summary| (100.0 * summary.kv_share, summary.kl.max(LEAST));
        chart
            .draw_series(LineSeries::new(members.iter().map(|member| at(member)), color.stroke_width(2)))?
            .label(family)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(members.iter().map(|member| {
            let label = Text::new(label(&member.kv), (7, -6), ("sans-serif", 11));
            EmptyElement::at(at(member)) + Circle::new((0, 0), 4, color.filled()) + label
        }))?;
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.4)).label_font(("sans-serif", 12)).draw()?;
    root.present()?;
    Ok(())
}

/// What fits beside a point: a preset's name, or the settings in a few words.
fn label(name: &str) -> String {
    let Ok(options) = serde_json::from_str::<KvOptions>(name) else { return name.to_owned() };
    let share = |share: f64| format!("{share}").trim_start_matches('0').to_owned();
    let mut words: Vec<String> = options.preset.into_iter().collect();
    let precision = options.precision.unwrap_or_default();
    let names = [precision.keys, precision.values].map(|side| side.map(|side| side.to_string()));
    let mut names: Vec<String> = names.into_iter().flatten().collect();
    names.dedup();
    words.push(names.join("/"));
    words.extend(options.allocation.map(|allocation| allocation.to_string()));
    words.retain(|word| !word.is_empty());
    if let Some(pruning) = options.pruning {
        let [keys, values] =
            [pruning.key_ratio, pruning.value_ratio].map(|ratio| share(ratio.unwrap_or(0.0)));
        words.push(format!("{keys}/{values}"));
        words.extend(pruning.center_keys.filter(|centred| *centred).map(|_| "centred".to_owned()));
    }
    if let Some(eviction) = options.eviction {
        words.extend(eviction.policy.map(|policy| policy.name().to_owned()));
        words.extend(eviction.keep_ratio.map(share));
        words.extend(eviction.max_tokens.map(|tokens| tokens.to_string()));
    }
    words.extend(options.budget.map(|budget| budget.to_string()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(kv: &str, family: &str, kl: f64, kv_share: f64) -> Summary {
        Summary {
            kv: kv.to_owned(),
            family: family.to_owned(),
            texts: 8,
            kl,
            kl_interval: [kl * 0.9, kl * 1.1],
            kl_p999: 10.0 * kl,
            same_top: 0.97,
            loss_difference: 0.001,
            kv_share,
            beaten_by: Vec::new(),
        }
    }

    #[test]
    fn every_settings_has_a_row_and_a_point() {
        let mut all = vec![summary("exact", "dense", 0.0, 1.0), summary("int8", "dense", 1e-4, 0.52)];
        all.push(Summary {
            beaten_by: vec!["int8".to_owned()],
            ..summary("snapkv <half>", "evicted", 0.1, 0.5)
        });
        let table = table(&all);
        assert_eq!(table.lines().count(), 5);
        assert!(
            table.contains("| int8 | 52.0 % | 0.00010 (0.00009 to 0.00011) | 0.001 | 97.0 % | +0.0010 |  |"),
            "{table}"
        );
        assert!(table.ends_with("| int8 |\n"), "{table}");
        let svg = plot(&all).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for name in ["exact", "int8", "dense", "evicted", "snapkv &lt;half&gt;"] {
            assert!(svg.contains(name), "{name}");
        }
        assert!(plot(&[]).is_err());
        let json = r#"{"pruning": {"key_ratio": 0.75, "value_ratio": 0.5, "center_keys": true}, "precision": "int8",
            "eviction": {"policy": "snapkv", "keep_ratio": 0.5}}"#;
        assert_eq!(label(json), "int8 .75/.5 centred snapkv .5");
    }
}
