//! The columns of each kind's list.
use super::status::Status;
use super::{list, number, overview, pairs, pod, rollout, text, time, units, workload};
use crate::api::watch::{Item, TableColumn};
use serde_json::Value;
use std::cmp::Ordering;

/// What stands in one cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Text(String),
    /// Names, addresses, images.
    Code(String),
    Number(i64),
    /// Part and whole.
    Of(i64, i64),
    Status(Status),
    /// Since when, in milliseconds.
    Age(Option<i64>),
}

impl Cell {
    /// What a filter searches and a sort compares.
    pub fn words(&self) -> String {
        match self {
            Cell::Text(text) | Cell::Code(text) => text.clone(),
            Cell::Number(number) => number.to_string(),
            Cell::Of(part, whole) => format!("{part}/{whole}"),
            Cell::Status(status) => status.word.clone(),
            Cell::Age(_) => String::new(),
        }
    }

    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Cell::Number(a), Cell::Number(b)) => a.cmp(b),
            (Cell::Of(a, b), Cell::Of(c, d)) => (a - b, a).cmp(&(c - d, c)),
            // Young first: a small age is a late time.
            (Cell::Age(a), Cell::Age(b)) => b.cmp(a),
            (Cell::Status(a), Cell::Status(b)) => (a.tone, &a.word).cmp(&(b.tone, &b.word)),
            (a, b) => natural(&a.words(), &b.words()),
        }
    }
}

/// `web-2` before `web-10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        if digits_a > 0 && digits_b > 0 {
            let (x, y) = (a[..digits_a].trim_start_matches('0'), b[..digits_b].trim_start_matches('0'));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            continue;
        }
        let (mut rest_a, mut rest_b) = (a.chars(), b.chars());
        match (rest_a.next(), rest_b.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x != y => return x.cmp(&y),
            _ => (a, b) = (rest_a.as_str(), rest_b.as_str()),
        }
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// How a column makes its cell.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Object(fn(&Value) -> Cell),
    /// The server's own cell at this place.
    Server(usize),
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// 1 is always shown, 2 from a tablet's width on, 3 only where there is plenty.
    pub rank: u8,
    pub source: Source,
}

impl Column {
    fn new(name: &str, rank: u8, cell: fn(&Value) -> Cell) -> Self {
        Self { name: name.into(), rank, source: Source::Object(cell) }
    }

    pub fn cell(&self, item: &Item) -> Cell {
        match self.source {
            Source::Object(cell) => cell(&item.object),
            Source::Server(place) => match item.cells.get(place) {
                Some(Value::String(text)) => Cell::Text(text.clone()),
                Some(Value::Null) | None => Cell::Text(String::new()),
                Some(value) => value.as_i64().map_or_else(|| Cell::Text(value.to_string()), Cell::Number),
            },
        }
    }
}

fn age(object: &Value) -> Cell {
    Cell::Age(time::parse(text(object, &["metadata", "creationTimestamp"])))
}

/// Columns after name and namespace, for the kinds this program knows.
pub fn known(plural: &str) -> Option<Vec<Column>> {
    let column = Column::new;
    Some(match plural {
        "deployments" => vec![
            column("Status", 1, |d| Cell::Status(workload::deployment(d))),
            column("Ready", 1, |d| {
                let replicas = workload::Replicas::of(d);
                Cell::Of(replicas.ready, replicas.wanted)
            }),
            column("Images", 2, |d| Cell::Code(rollout::images(&d["spec"]["template"]).join(", "))),
            column("Age", 2, age),
        ],
        "replicasets" => vec![
            column("Status", 1, |r| Cell::Status(workload::replica_set(r))),
            column("Ready", 1, |r| {
                let replicas = workload::Replicas::of(r);
                Cell::Of(replicas.ready, replicas.wanted)
            }),
            column("Owner", 3, |r| Cell::Code(owner(r))),
            column("Images", 2, |r| Cell::Code(rollout::images(&r["spec"]["template"]).join(", "))),
            column("Age", 2, age),
        ],
        "pods" => vec![
            column("Status", 1, |p| Cell::Status(pod::status(p))),
            column("Ready", 1, |p| {
                let (ready, wanted) = pod::ready_of(p);
                Cell::Of(small(ready), small(wanted))
            }),
            column("Restarts", 2, |p| Cell::Number(pod::restarts(p))),
            column("Address", 3, |p| Cell::Code(text(p, &["status", "podIP"]).into())),
            column("Node", 3, |p| Cell::Code(text(p, &["spec", "nodeName"]).into())),
            column("Age", 2, age),
        ],
        "nodes" => vec![
            column("Status", 1, |n| Cell::Status(workload::node(n))),
            column("CPU", 2, |n| Cell::Text(units::cores(overview::allocatable(n).milli_cpu))),
            column("Memory", 2, |n| Cell::Text(units::bytes(overview::allocatable(n).memory_bytes))),
            column("Address", 2, |n| Cell::Code(node_address(n))),
            column("Version", 3, |n| Cell::Text(text(n, &["status", "nodeInfo", "kubeletVersion"]).into())),
            column("Runtime", 3, |n| {
                Cell::Text(text(n, &["status", "nodeInfo", "containerRuntimeVersion"]).into())
            }),
            column("Age", 3, age),
        ],
        "services" => vec![
            column("Type", 1, |s| Cell::Text(text(s, &["spec", "type"]).into())),
            column("Cluster address", 1, |s| Cell::Code(text(s, &["spec", "clusterIP"]).into())),
            column("Ports", 2, |s| Cell::Code(ports(s))),
            column("Selector", 3, |s| Cell::Code(labels(&pairs(s, &["spec", "selector"])))),
            column("Age", 2, age),
        ],
        "configmaps" => vec![
            column("Keys", 1, |c| {
                Cell::Number(small(pairs(c, &["data"]).len() + pairs(c, &["binaryData"]).len()))
            }),
            column("Age", 1, age),
        ],
        "secrets" => vec![
            column("Type", 2, |s| Cell::Text(text(s, &["type"]).into())),
            column("Keys", 1, |s| Cell::Number(small(pairs(s, &["data"]).len()))),
            column("Age", 1, age),
        ],
        "namespaces" => {
            vec![column("Status", 1, |n| Cell::Status(workload::namespace(n))), column("Age", 1, age)]
        }
        _ => return None,
    })
}

/// For kinds it does not know: the columns that `kubectl get` prints.
pub fn from_server(columns: &[TableColumn]) -> Vec<Column> {
    let shown = columns.iter().enumerate().filter(|(_, column)| column.name != "Name");
    let mut out: Vec<Column> = shown
        .map(|(place, column)| Column {
            name: column.name.clone(),
            rank: if column.priority > 0 { 3 } else { 2 },
            // The server's ages stand still.
            source: if column.name == "Age" { Source::Object(age) } else { Source::Server(place) },
        })
        .collect();
    if out.is_empty() {
        out.push(Column::new("Age", 1, age));
    }
    out
}

fn small(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn owner(object: &Value) -> String {
    list(object, &["metadata", "ownerReferences"])
        .iter()
        .find(|owner| owner["controller"] == true)
        .map(|owner| format!("{}/{}", text(owner, &["kind"]), text(owner, &["name"])))
        .unwrap_or_default()
}

pub fn labels(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// `80 → 8080/TCP, node 30080`
pub fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let number_of = |name: &str| number(port, &[name]);
        let own = number_of("port").unwrap_or(0);
        let target = match &port["targetPort"] {
            Value::String(name) => format!(" → {name}"),
            Value::Number(target) if target.as_i64() != Some(own) => format!(" → {target}"),
            _ => String::new(),
        };
        let protocol = match text(port, &["protocol"]) {
            "" => "TCP",
            protocol => protocol,
        };
        let node = number_of("nodePort").map(|node| format!(", node {node}")).unwrap_or_default();
        format!("{own}{target}/{protocol}{node}")
    };
    list(service, &["spec", "ports"]).iter().map(port).collect::<Vec<_>>().join("; ")
}

fn node_address(node: &Value) -> String {
    let address = |kind: &str| {
        let found = list(node, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
        found.map(|address| text(address, &["address"]).to_owned())
    };
    address("InternalIP").or_else(|| address("Hostname")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["web-10", "web-2", "api", "web-02b", "web"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["api", "web", "web-2", "web-02b", "web-10"]);
    }

    #[test]
    fn every_kind_with_a_page_has_columns() {
        for resource in crate::api::resource::WITH_PAGES {
            assert_eq!(known(&resource.plural).is_some(), resource.plural != "events", "{}", resource.plural);
        }
    }

    #[test]
    fn an_empty_object_breaks_no_column() {
        let item = Item { object: json!({}), cells: vec![] };
        for resource in crate::api::resource::WITH_PAGES {
            for column in known(&resource.plural).unwrap_or_default() {
                column.cell(&item);
            }
        }
    }

    #[test]
    fn a_services_ports_tell_where_they_lead() {
        let service = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP"},
            {"port": 53, "targetPort": 53, "protocol": "UDP"}, {"port": 1, "targetPort": "http"}]}});
        assert_eq!(ports(&service), "80 → 8080/TCP, node 30080; 53/UDP; 1 → http/TCP");
    }

    #[test]
    fn the_servers_table_gives_columns_for_unknown_kinds() {
        let columns = from_server(&[
            TableColumn { name: "Name".into(), priority: 0 },
            TableColumn { name: "Holder".into(), priority: 0 },
            TableColumn { name: "Age".into(), priority: 0 },
        ]);
        let item = Item {
            object: json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:01Z"}}),
            cells: vec![json!("x"), json!("me"), json!("5d")],
        };
        assert_eq!(
            columns.iter().map(|c| c.cell(&item)).collect::<Vec<_>>(),
            [Cell::Text("me".into()), Cell::Age(Some(1000))]
        );
    }

    #[test]
    fn counts_sort_by_what_is_missing() {
        assert_eq!(Cell::Of(1, 3).compare(&Cell::Of(3, 3)), Ordering::Less);
        assert_eq!(Cell::Age(Some(5)).compare(&Cell::Age(Some(9))), Ordering::Greater);
    }
}
