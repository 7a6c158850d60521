//! The response to /metrics: a backend's own figures as JSON.
use std::time::Duration;

use serde_json::json;

use crate::model::{Channel, Model};

/// Figures from outside the model: measured, or null if that is not possible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) port: u16,
    pub(crate) cpu_busy_ms: Option<f64>,
    pub(crate) memory_rss: Option<u64>,
    pub(crate) uptime: Duration,
    pub(crate) unix_time: Duration,
}

/// Returns the report, with the field names that the proxy and its users know.
pub(crate) fn to_json(model: &Model, measured: &Measured) -> String {
    let parameters = model.parameters();
    json!({
        "port": measured.port,
        "ge_state": match model.channel() {
            Channel::Good => "G",
            Channel::Bad => "B",
        },
        "queueLen": model.queue(),
        "simQueueMax": parameters.queue_max,
        "cpuBusyMs": measured.cpu_busy_ms,
        "slowRate": parameters.slow_rate,
        "slowMs": parameters.slow_ms,
        "errRate": parameters.error_rate,
        "lossParams": {
            "pGtoB": parameters.p_g_to_b,
            "pBtoG": parameters.p_b_to_g,
            "lossInG": parameters.loss_in_g,
            "lossInB": parameters.loss_in_b,
        },
        "memRss": measured.memory_rss,
        // The allocator has no readable count, so the figure is null.
        "heapUsed": null,
        "uptime": measured.uptime.as_millis() as f64 / 1000.0,
        "timestamp": measured.unix_time.as_millis() as u64,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use intelliproxy_core::Instant;
    use serde_json::Value;

    use super::*;
    use crate::parameters::Preset;

    /// The whole report of a new server B: every field by name, unknown figures null.
    #[test]
    fn a_report_has_all_fields() {
        let model = Model::new(Preset::B.parameters(), 1, Instant::ZERO);
        let measured = Measured {
            port: 3002,
            cpu_busy_ms: None,
            memory_rss: Some(4096),
            uptime: Duration::from_millis(1500),
            unix_time: Duration::from_millis(1_700_000_000_123),
        };
        let expected = json!({
            "port": 3002, "ge_state": "G", "queueLen": 20, "simQueueMax": 80, "cpuBusyMs": null,
            "slowRate": 0.12, "slowMs": 850, "errRate": 0.03,
            "lossParams": {"pGtoB": 0.03, "pBtoG": 0.08, "lossInG": 0.01, "lossInB": 0.45},
            "memRss": 4096, "heapUsed": null, "uptime": 1.5, "timestamp": 1_700_000_000_123_u64,
        });
        let report: Value = serde_json::from_str(&to_json(&model, &measured)).unwrap();
        assert_eq!(report, expected);
    }
}
