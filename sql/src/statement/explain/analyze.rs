//! What was measured of a statement, as TiDB writes it: the columns `actRows`, `execution info`, `memory`, `disk`.

use std::collections::{BTreeMap, HashMap};

use cairn_executor::{Detail, OperatorSummary};
use cairn_kv_client::RequestSpan;
use cairn_planner::explain::ExplainRow;

use crate::execution::Watch;
use crate::session::Session;

/// An estimate is told to be off from so many times on.
const ESTIMATE_OFF_MIN: f64 = 10.0;
/// Where neither has so many rows, it does no harm.
const ESTIMATE_ROWS_MIN: f64 = 100.0;
/// Stores that are named; of more, how many there are.
const STORES_NAMED_MAX: usize = 16;

/// What a statement did.
pub struct Measured {
    operators: HashMap<usize, OperatorSummary>,
    readers: BTreeMap<usize, Vec<RequestSpan>>,
    /// What is told of the statement as a whole.
    whole: String,
}

/// The measured columns of a line.
pub struct MeasuredCells {
    /// Rows that came out.
    pub rows: u64,
    /// What it did.
    pub info: String,
    /// Its peak.
    pub memory: String,
    /// Its peak.
    pub disk: String,
    /// Nanoseconds in all.
    pub time_ns: u64,
    /// Calls.
    pub loops: u64,
}

impl Measured {
    /// What was watched of a statement that ran for so long.
    pub fn new(watch: &Watch, session: &Session, run_ns: u64) -> Measured {
        let logs = watch.readers();
        let sums = watch.requests.sums();
        let mut whole = format!(
            "total:{}, compile:{}",
            duration_text(run_ns + session.measures.compile_ns),
            duration_text(session.measures.compile_ns)
        );
        if sums.requests > 0 {
            whole += &format!(", rpc:{{num:{}, write:{}}}", sums.requests, sums.write_requests);
        }
        if session.measures.retries > 0 {
            whole += &format!(", retries:{}", session.measures.retries);
        }
        Measured {
            operators: watch.stats.summaries().into_iter().collect(),
            readers: logs.into_iter().map(|(id, log)| (id, log.spans())).collect(),
            whole,
        }
    }

    /// What is told of one line; the first one tells of the whole statement, too.
    pub fn cells(&self, row: &ExplainRow, is_first: bool) -> MeasuredCells {
        let summary = row.operator.and_then(|id| self.operators.get(&id));
        let mut parts = Vec::new();
        if let Some(summary) = summary {
            parts.extend(operator_info(summary));
            let estimate: f64 = row.est_rows.parse().unwrap_or(0.0);
            parts.extend(estimate_info(estimate, summary));
        }
        if row.fragment.is_none() {
            let spans = row.operator.and_then(|id| self.readers.get(&id));
            parts.extend(spans.and_then(|spans| cop_info(spans)));
        }
        if is_first {
            parts.push(self.whole.clone());
        }
        let shown = |bytes: Option<u64>| bytes.map_or_else(|| "N/A".to_owned(), bytes_text);
        MeasuredCells {
            rows: summary.map_or(0, |summary| summary.rows),
            info: parts.join(", "),
            memory: shown(summary.and_then(|summary| summary.memory_bytes)),
            disk: shown(summary.and_then(|summary| summary.disk_bytes)),
            time_ns: summary.map_or(0, |summary| summary.time_ns),
            loops: summary.map_or(0, |summary| summary.loops),
        }
    }
}

/// Time, calls and what only some operators have.
fn operator_info(summary: &OperatorSummary) -> Vec<String> {
    let detail = |detail: Detail| summary.detail(detail);
    let time = duration_text(summary.time_ns);
    if summary.tasks > 0 {
        let max = duration_text(summary.task_ns_max);
        let (tasks, loops) = (summary.tasks, summary.loops);
        return vec![format!("tikv_task:{{time:{time}, max:{max}, loops:{loops}, tasks:{tasks}}}")];
    }
    let mut parts = vec![format!("time:{time}, loops:{}", summary.loops)];
    let (build, probe) = (detail(Detail::BuildTimeNs), detail(Detail::ProbeTimeNs));
    if build > 0 {
        parts.push(format!("build_hash_table:{{total:{}}}", duration_text(build)));
    }
    if build > 0 || probe > 0 {
        parts.push(format!("probe:{{total:{}}}", duration_text(probe)));
    }
    let rounds = detail(Detail::LookUpRounds);
    if rounds > 0 {
        let time = duration_text(detail(Detail::LookUpTimeNs));
        let keys = detail(Detail::LookUpKeys);
        parts.push(format!("inner:{{total:{time}, task:{rounds}, keys:{keys}}}"));
    }
    let spills = detail(Detail::SpillRounds);
    if spills > 0 {
        let mut text = format!("spill:{{rounds:{spills}");
        let partitions = detail(Detail::SpillPartitions);
        if partitions > 0 {
            text += &format!(", partitions:{partitions}");
        }
        parts.push(text + "}");
    }
    parts
}

/// Said where a plan may be bad because its estimate is.
fn estimate_info(estimate: f64, summary: &OperatorSummary) -> Option<String> {
    let actual = summary.rows as f64;
    let (more, less) = (actual.max(estimate), actual.min(estimate).max(1.0));
    let is_off = more >= ESTIMATE_ROWS_MIN && more / less >= ESTIMATE_OFF_MIN;
    is_off.then(|| {
        let way = if actual > estimate { "few" } else { "many" };
        format!("estimate:{:.0}x too {way}", more / less)
    })
}

/// A reader's tasks.
fn cop_info(spans: &[RequestSpan]) -> Option<String> {
    let mut times: Vec<u64> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    let mut stores: BTreeMap<u64, u64> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.name == "Cop") {
        times.push(u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX));
        rows += span.rows;
        bytes += span.bytes;
        *stores.entry(span.store_id).or_default() += 1;
    }
    times.sort_unstable();
    let (min, max) = (times.first()?, times.last()?);
    let average = times.iter().sum::<u64>() / times.len() as u64;
    let p95 = times[(times.len() - 1) * 95 / 100];
    let mut text = format!("cop_task:{{num:{}", times.len());
    for (name, time) in [("max", *max), ("min", *min), ("avg", average), ("p95", p95)] {
        text += &format!(", {name}:{}", duration_text(time));
    }
    text += &format!(", rows:{rows}, bytes:{}", bytes_text(bytes));
    match stores.len() {
        0..=STORES_NAMED_MAX => {
            let named: Vec<String> =
                stores.iter().map(|(store, tasks)| format!("{store}:{tasks}")).collect();
            text += &format!(", stores:{{{}}}", named.join(", "));
        }
        count => text += &format!(", stores:{count}"),
    }
    Some(text + "}")
}

/// A duration as Go prints it, which is what users of TiDB's plans read.
pub fn duration_text(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{:.1}µs", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}ms", nanos as f64 / 1e6),
        _ => format!("{:.2}s", nanos as f64 / 1e9),
    }
}

/// Bytes as TiDB prints them.
pub fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} Bytes"),
        1_024..1_048_576 => format!("{:.1} KB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_executor::RuntimeStats;
    use tokio::time::Instant;

    use super::*;

    fn span(store_id: u64, duration_ms: u64, rows: u64) -> RequestSpan {
        RequestSpan {
            name: "Cop",
            region_id: 1,
            store_id,
            start: Instant::now(),
            duration: Duration::from_millis(duration_ms),
            bytes: 1_024,
            rows,
            answered: true,
        }
    }

    #[test]
    fn tasks_are_told_with_their_spread_and_stores() {
        let mut spans: Vec<RequestSpan> = (1..=20).map(|n| span(1 + n % 2, n, 10)).collect();
        spans.push(RequestSpan { name: "Get", ..span(9, 100, 0) });
        assert_eq!(
            cop_info(&spans).as_deref(),
            Some(
                "cop_task:{num:20, max:20.00ms, min:1.00ms, avg:10.50ms, p95:19.00ms, rows:200, \
                 bytes:20.0 KB, stores:{1:10, 2:10}}"
            )
        );
        assert_eq!(cop_info(&spans[20..]), None);
    }

    #[test]
    fn estimates_far_off_are_told() {
        let actual = |rows| {
            let stats = RuntimeStats::default();
            stats.operator(1, "Sort").add(rows, 1, 0);
            stats.summaries().remove(0).1
        };
        assert_eq!(estimate_info(10.0, &actual(99)), None);
        assert_eq!(estimate_info(10.0, &actual(1_000)).as_deref(), Some("estimate:100x too few"));
        assert_eq!(estimate_info(1_000.0, &actual(0)).as_deref(), Some("estimate:1000x too many"));
        assert_eq!(estimate_info(1_000.0, &actual(900)), None);
    }
}
