//! The agent's log: levels, targets, and how an event becomes a line, for people or for programs.

use std::fmt::{Debug, Write as _};

use clap::ValueEnum;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::{Context, SubscriberExt},
    registry,
};

use crate::say;

/// The agent itself: that it is ready, and why it ends.
pub(crate) const AGENT: &str = "agent";
/// Its configuration.
pub(crate) const CONFIG: &str = "config";
/// Programs, pins, uplinks, ports and addresses.
pub(crate) const DATAPATH: &str = "datapath";
/// The plugin's binary, and its place in the chain.
pub(crate) const CHAIN: &str = "chain";
/// Pods that run already.
pub(crate) const ADOPT: &str = "adopt";
/// PVs that several servers have.
pub(crate) const DUPLICATES: &str = "duplicates";
/// The page.
pub(crate) const PAGE: &str = "page";
/// Searches between subnets.
pub(crate) const RELAY: &str = "relay";
const TARGETS: [&str; 8] = [AGENT, CONFIG, DATAPATH, CHAIN, ADOPT, DUPLICATES, PAGE, RELAY];

/// What is logged, and how.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    /// What to log: a level (off, error, warn, info, debug or trace), or levels by target, as in `warn,adopt=debug`.
    #[arg(long, value_name = "LEVEL", env = "IOCAST_LOG", default_value = "info", value_parser = filter)]
    log: Targets,
    /// How to log: lines for people, or an object of JSON a line.
    #[arg(long, value_name = "FORMAT", env = "IOCAST_LOG_FORMAT", default_value = "text")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// From now on, this process logs what is wanted.
pub(crate) fn start(options: &Options) {
    let lines = Lines(options.log_format).with_filter(options.log.clone());
    let _ = tracing::subscriber::set_global_default(registry().with(lines)); // fails if it has been called before
}

/// Logs an event of a target that is known only when it happens.
macro_rules! event {
    ($level:ident, $target:expr, $($what:tt)+) => {
        match $target {
            $crate::log::CONFIG => tracing::$level!(target: $crate::log::CONFIG, $($what)+),
            $crate::log::DATAPATH => tracing::$level!(target: $crate::log::DATAPATH, $($what)+),
            $crate::log::CHAIN => tracing::$level!(target: $crate::log::CHAIN, $($what)+),
            $crate::log::ADOPT => tracing::$level!(target: $crate::log::ADOPT, $($what)+),
            $crate::log::DUPLICATES => tracing::$level!(target: $crate::log::DUPLICATES, $($what)+),
            $crate::log::RELAY => tracing::$level!(target: $crate::log::RELAY, $($what)+),
            _ => tracing::$level!(target: $crate::log::AGENT, $($what)+),
        }
    };
}
pub(crate) use event;

/// Levels by target, from text such as `warn,adopt=debug`. Other crates' events are none of the agent's log.
fn filter(text: &str) -> Result<Targets, String> {
    let level =
        |level: &str| level.parse::<LevelFilter>().map_err(|_| format!("there is no level `{level}`"));
    let mut levels = TARGETS.map(|target| (target, LevelFilter::INFO));
    for part in text.split(',').map(str::trim) {
        let (of, wanted) = part.split_once('=').map_or((None, part), |(target, level)| (Some(target), level));
        let wanted = level(wanted)?;
        if let Some(unknown) = of.filter(|of| !TARGETS.contains(of)) {
            return Err(format!("there is no target `{unknown}`, only {}", TARGETS.join(", ")));
        }
        levels
            .iter_mut()
            .filter(|(target, _)| of.is_none_or(|of| of == *target))
            .for_each(|it| it.1 = wanted);
    }
    Ok(Targets::new().with_targets(levels))
}

/// Writes events as lines, warnings and errors to stderr.
struct Lines(Format);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let is_wrong = *event.metadata().level() <= Level::WARN;
        match self.0 {
            Format::Text if is_wrong => say::complain(fields.message),
            Format::Text => say::say(fields.message),
            Format::Json => say::object(&fields.object(event), is_wrong),
        }
    }
}

/// An event's message, and its other keys.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    /// The event as programs read it: keys that all have come first.
    fn object(self, event: &Event<'_>) -> Map<String, Value> {
        let mut time = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut time)); // to a string that cannot fail
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let first = [
            ("time", time),
            ("level", level),
            ("target", event.metadata().target().into()),
            ("message", self.message),
        ];
        first.map(|(key, value)| (key.to_owned(), value.into())).into_iter().chain(self.others).collect()
    }

    fn note(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.insert(field.name().into(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}"); // to a string that cannot fail
        } else {
            self.note(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.message = value.into() } else { self.note(field, value) }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_for_all_targets_or_for_one() {
        let is_wanted = |text: &str, target: &str, level| filter(text).unwrap().would_enable(target, &level);
        assert!(is_wanted("info", ADOPT, Level::INFO) && !is_wanted("info", ADOPT, Level::DEBUG));
        assert!(is_wanted("warn, adopt=debug", ADOPT, Level::DEBUG));
        assert!(!is_wanted("warn,adopt=debug", CHAIN, Level::INFO));
        assert!(is_wanted("adopt=off", CHAIN, Level::INFO) && !is_wanted("adopt=off", ADOPT, Level::ERROR));
        assert!(!is_wanted("trace", "h2::proto", Level::ERROR), "other crates'");
        assert_eq!(filter("inof").unwrap_err(), "there is no level `inof`");
        assert!(filter("adpt=info").unwrap_err().contains("`adpt`, only agent, config,"));
    }
}
