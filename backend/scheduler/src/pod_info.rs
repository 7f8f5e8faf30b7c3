//! A pod as scheduling sees it: what it asks for is read and added up once.
use pilothouse_api::Key;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::placement::{Labels, NodeTerm, RequiredNodes, Toleration};
use pilothouse_api::quantity::Quantity;
use pilothouse_api::resize;
use pilothouse_api::selector::LabelSelector;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Amounts of what a node has and a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    /// In bytes.
    pub memory: i64,
    /// In bytes.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, in units.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    pub fn read(list: &Value) -> Self {
        let mut all = Self::default();
        for (name, amount) in list.as_object().into_iter().flatten() {
            let text = amount.as_str().map(str::to_owned).unwrap_or_else(|| amount.to_string());
            let Some(quantity) = Quantity::parse(&text) else {
                continue;
            };
            match name.as_str() {
                "cpu" => all.milli_cpu = quantity.milli(),
                "memory" => all.memory = quantity.value(),
                "ephemeral-storage" => all.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => drop(all.others.insert(name.clone(), quantity.value())),
            }
        }
        all
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn max(&mut self, other: &Self) {
        self.combine(other, Ord::max);
    }

    /// What a pod needs to run: all its containers together, or the most demanding moment of its start, plus overhead
    /// (`PodRequests` of `k8s.io/component-helpers/resource`, sidecars included).
    pub fn of_pod(spec: &Value) -> Self {
        let request = |container: &Value| Self::read(&container["resources"]["requests"]);
        let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
        let mut running = Self::default();
        list("containers").iter().for_each(|c| running.add(&request(c)));
        let (mut sidecars, mut starting) = (Self::default(), Self::default());
        for container in list("initContainers") {
            let mut moment = request(&container);
            if container["restartPolicy"] == "Always" {
                running.add(&moment);
                sidecars.add(&moment);
                moment = sidecars.clone();
            } else {
                moment.add(&sidecars);
            }
            starting.max(&moment);
        }
        running.max(&starting);
        // Requests of the pod as a whole stand above those of its containers.
        let whole = Self::read(&spec["resources"]["requests"]);
        for (wanted, slot) in [(whole.milli_cpu, &mut running.milli_cpu), (whole.memory, &mut running.memory)]
        {
            if wanted > 0 {
                *slot = wanted;
            }
        }
        running.add(&Self::read(&spec["overhead"]));
        running
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i64,
}

impl HostPort {
    fn of_pod(spec: &Value) -> Box<[Self]> {
        let containers =
            ["containers", "initContainers"].iter().flat_map(|f| spec[*f].as_array().into_iter().flatten());
        let ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
        let taken = ports.filter_map(|port| {
            let number = port["hostPort"].as_i64().filter(|n| *n > 0)?;
            let text = |field: &str, default: &str| {
                port[field].as_str().filter(|t| !t.is_empty()).unwrap_or(default).to_owned()
            };
            Some(Self { ip: text("hostIP", "0.0.0.0"), protocol: text("protocol", "TCP"), port: number })
        });
        taken.collect()
    }

    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// One pod (anti-)affinity term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTerm {
    pub topology_key: Arc<str>,
    /// None: it matches no pod.
    pub selector: Option<LabelSelector>,
    /// The namespaces it looks in; None: all.
    pub namespaces: Option<Vec<String>>,
    pub weight: i64,
}

impl PodTerm {
    fn new(term: &Value, weight: i64, own_namespace: &str, own_labels: &Labels) -> Self {
        let listed = term["namespaces"].as_array().into_iter().flatten();
        let listed: Vec<String> = listed.filter_map(|n| n.as_str().map(str::to_owned)).collect();
        let selects = term["namespaceSelector"].is_object();
        let namespaces = match () {
            // The snapshot holds no namespaces: a selector that is not empty is taken for all of them.
            () if selects => None,
            () if listed.is_empty() => Some(vec![own_namespace.to_owned()]),
            () => Some(listed),
        };
        Self {
            topology_key: term["topologyKey"].as_str().unwrap_or_default().into(),
            selector: selector_with_keys(term, own_labels),
            namespaces,
            weight,
        }
    }

    fn list(terms: &Value, namespace: &str, labels: &Labels) -> Vec<Self> {
        terms.as_array().into_iter().flatten().map(|term| Self::new(term, 1, namespace, labels)).collect()
    }

    pub fn matches(&self, namespace: &str, labels: &Labels) -> bool {
        self.namespaces.as_ref().is_none_or(|all| all.iter().any(|n| n == namespace))
            && self.selector.as_ref().is_some_and(|s| s.matches(labels))
    }
}

/// `labelSelector` together with `matchLabelKeys`, whose values are the pod's own.
fn selector_with_keys(rule: &Value, own: &Labels) -> Option<LabelSelector> {
    let mut selector = rule.get("labelSelector").filter(|s| s.is_object())?.clone();
    for key in rule["matchLabelKeys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if let Some(value) = own.get(key) {
            selector["matchLabels"][key] = value.as_str().into();
        }
    }
    LabelSelector::from_object(&selector).ok()
}

/// One `topologySpreadConstraints` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadRule {
    pub max_skew: i64,
    pub topology_key: Arc<str>,
    /// `DoNotSchedule`, rather than a wish.
    pub is_required: bool,
    pub selector: Option<LabelSelector>,
    pub min_domains: i64,
    /// Whether nodes count only where the pod's node affinity matches.
    pub honors_affinity: bool,
    /// Whether nodes count only where the pod tolerates the taints.
    pub honors_taints: bool,
}

impl SpreadRule {
    fn new(rule: &Value, own: &Labels) -> Self {
        Self {
            max_skew: rule["maxSkew"].as_i64().unwrap_or(1),
            topology_key: rule["topologyKey"].as_str().unwrap_or_default().into(),
            is_required: rule["whenUnsatisfiable"] != "ScheduleAnyway",
            selector: selector_with_keys(rule, own),
            min_domains: rule["minDomains"].as_i64().unwrap_or(1),
            honors_affinity: rule["nodeAffinityPolicy"] != "Ignore",
            honors_taints: rule["nodeTaintsPolicy"] == "Honor",
        }
    }
}

/// What a pod asks of its node and its neighbours; needed until it is placed.
#[derive(Debug, Default, PartialEq)]
pub struct Wants {
    pub nodes: RequiredNodes,
    /// Preferred node affinity.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub spread: Vec<SpreadRule>,
    pub affinity: Vec<PodTerm>,
    pub preferred: Vec<PodTerm>,
    pub never_preempts: bool,
}

/// One pod, as far as scheduling asks.
#[derive(Debug, PartialEq)]
pub struct PodInfo {
    pub key: Key,
    pub uid: Arc<str>,
    /// Where it runs.
    pub node: Option<Arc<str>>,
    pub priority: i32,
    pub created: Option<Timestamp>,
    pub requests: Resources,
    pub host_ports: Box<[HostPort]>,
    /// The names of its claims, each once, and whether one was made for just this pod.
    pub claims: Box<[(Arc<str>, bool)]>,
    pub labels: Arc<Labels>,
    /// UID of its controller: siblings are spread.
    pub owner: Option<Arc<str>>,
    pub is_deleting: bool,
    /// Required anti-affinity: it holds for pods that come later, too.
    pub anti_affinity: Vec<PodTerm>,
    /// None once it is placed.
    pub wants: Option<Box<Wants>>,
    /// A scheduling gate is closed.
    pub is_gated: bool,
    pub nominated: Option<Arc<str>>,
}

impl PodInfo {
    pub fn new(key: Key, pod: &Value) -> Self {
        let (spec, metadata) = (&pod["spec"], &pod["metadata"]);
        let labels = labels_of(pod);
        let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(Arc::<str>::from);
        let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let namespace = key.namespace.clone();
        let node = text(&spec["nodeName"]);
        Self {
            uid: text(&metadata["uid"]).unwrap_or_default(),
            wants: node.is_none().then(|| Box::new(Wants::new(pod, &namespace, &labels))),
            node,
            priority: spec["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
            created: metadata["creationTimestamp"].as_str().and_then(|t| t.parse().ok()),
            requests: Resources::of_pod(resize::counted_spec(pod).as_ref().unwrap_or(spec)),
            host_ports: HostPort::of_pod(spec),
            claims: claims(pod),
            owner: owners.filter(|o| o["controller"] == true).find_map(|o| text(&o["uid"])),
            is_deleting: metadata["deletionTimestamp"].is_string(),
            anti_affinity: PodTerm::list(
                &spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"],
                &namespace,
                &labels,
            ),
            is_gated: spec["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()),
            nominated: text(&pod["status"]["nominatedNodeName"]),
            labels: Arc::new(labels),
            key,
        }
    }

    /// The same pod, on a node.
    pub fn placed_on(&self, node: &str) -> Self {
        Self {
            key: self.key.clone(),
            uid: self.uid.clone(),
            node: Some(node.into()),
            priority: self.priority,
            created: self.created,
            requests: self.requests.clone(),
            host_ports: self.host_ports.clone(),
            claims: self.claims.clone(),
            labels: self.labels.clone(),
            owner: self.owner.clone(),
            is_deleting: self.is_deleting,
            anti_affinity: self.anti_affinity.clone(),
            wants: None,
            is_gated: false,
            nominated: None,
        }
    }
}

impl Wants {
    fn new(pod: &Value, namespace: &str, labels: &Labels) -> Self {
        let spec = &pod["spec"];
        let affinity = &spec["affinity"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let weighted = |side: &str, sign: i64| -> Vec<PodTerm> {
            let terms = list(&affinity[side][preferred]);
            let weight = |term: &Value| sign * term["weight"].as_i64().unwrap_or(1);
            terms.iter().map(|t| PodTerm::new(&t["podAffinityTerm"], weight(t), namespace, labels)).collect()
        };
        let mut preferred_pods = weighted("podAffinity", 1);
        preferred_pods.extend(weighted("podAntiAffinity", -1));
        Self {
            nodes: RequiredNodes::of_spec(spec),
            preferred_nodes: list(&affinity["nodeAffinity"][preferred])
                .iter()
                .map(|t| (t["weight"].as_i64().unwrap_or(1), NodeTerm::new(&t["preference"])))
                .collect(),
            tolerations: Toleration::of_pod(pod),
            spread: list(&spec["topologySpreadConstraints"])
                .iter()
                .map(|r| SpreadRule::new(r, labels))
                .collect(),
            affinity: PodTerm::list(&affinity["podAffinity"][required], namespace, labels),
            preferred: preferred_pods,
            never_preempts: spec["preemptionPolicy"] == "Never",
        }
    }
}

fn claims(pod: &Value) -> Box<[(Arc<str>, bool)]> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let named = volumes.filter_map(|volume| {
        if volume["ephemeral"].is_object() {
            let pod = pod["metadata"]["name"].as_str()?;
            return Some((Arc::from(format!("{pod}-{}", volume["name"].as_str()?)), true));
        }
        Some((Arc::from(volume["persistentVolumeClaim"]["claimName"].as_str()?), false))
    });
    let each: std::collections::BTreeSet<(Arc<str>, bool)> = named.collect();
    each.into_iter().collect()
}

pub fn labels_of(object: &Value) -> Labels {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}
