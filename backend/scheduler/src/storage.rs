//! Claims, volumes and classes as scheduling sees them, and what one pod's claims ask of a node.
use crate::pod_info::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use pilothouse_api::Key;
use pilothouse_api::placement::Labels;
use pilothouse_api::quantity::Quantity;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::storage::{
    self, CLAIMS, CLASSES, CSI_CAPACITIES, CSI_DRIVERS, CSI_NODES, Demand, Offer, VOLUMES,
};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What the scheduler must be told besides pods and nodes.
pub const RESOURCES: [&str; 6] = [CLAIMS, VOLUMES, CLASSES, CSI_NODES, CSI_DRIVERS, CSI_CAPACITIES];

/// Namespace and name of a claim.
pub type ClaimName = (Arc<str>, Arc<str>);

struct Claim {
    uid: String,
    demand: Demand,
    /// It is bound to this one for good.
    volume: Option<Arc<str>>,
    selected_node: Option<Arc<str>>,
    /// UID of the pod it was made for.
    owner: Option<String>,
    is_deleting: bool,
    is_lost: bool,
}

struct Class {
    waits: bool,
    /// Volumes of this class are made when they are asked for.
    makes: bool,
    provisioner: String,
    object: Value,
}

/// What a driver has left for new volumes of a class on some nodes: a CSIStorageCapacity.
struct Capacity {
    /// None: on no node.
    nodes: Option<LabelSelector>,
    /// What the largest volume may have.
    most: Quantity,
}

/// Which volume a claim is to get on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One that is there, by its name.
    Volume(Arc<str>),
    /// One that is to be made.
    Make,
}

/// What changed for those who wait.
pub enum News {
    /// Pods with this claim should be tried.
    Claim(ClaimName),
    /// Pods that found no volume should be tried.
    Everybody,
    Nothing,
}

/// Fed change by change.
#[derive(Default)]
pub struct Storage {
    claims: HashMap<ClaimName, Claim>,
    volumes: HashMap<Arc<str>, Offer>,
    free: HashMap<String, BTreeSet<(Quantity, Arc<str>)>>,
    kept_for: HashMap<ClaimName, BTreeSet<Arc<str>>>,
    classes: HashMap<Arc<str>, Class>,
    /// How many volumes of a driver a node takes.
    limits: HashMap<Arc<str>, HashMap<String, usize>>,
    /// Drivers that tell what they have left.
    tellers: HashSet<Arc<str>>,
    /// What is left, by class.
    capacities: HashMap<String, HashMap<ClaimName, Capacity>>,
    /// The class of each capacity.
    class_of_capacity: HashMap<ClaimName, String>,
    /// Volumes that a decision gave to a claim, until that is observed.
    promised: HashMap<Arc<str>, ClaimName>,
}

impl Storage {
    pub fn observe(&mut self, key: &Key, object: Option<&Value>) -> News {
        match &*key.resource {
            CLAIMS => self.observe_claim(key, object),
            VOLUMES => self.observe_volume(&key.name, object),
            CLASSES => {
                match object {
                    Some(class) => drop(self.classes.insert(key.name.clone(), Class::new(class))),
                    None => drop(self.classes.remove(&key.name)),
                }
                News::Everybody
            }
            CSI_NODES => {
                match object {
                    Some(node) => drop(self.limits.insert(key.name.clone(), limits(node))),
                    None => drop(self.limits.remove(&key.name)),
                }
                News::Everybody
            }
            CSI_DRIVERS => {
                match object.is_some_and(|driver| driver["spec"]["storageCapacity"] == true) {
                    true => drop(self.tellers.insert(key.name.clone())),
                    false => drop(self.tellers.remove(&key.name)),
                }
                News::Everybody
            }
            CSI_CAPACITIES => {
                self.observe_capacity(key, object);
                News::Everybody
            }
            _ => News::Nothing,
        }
    }

    fn observe_capacity(&mut self, key: &Key, object: Option<&Value>) {
        let name = (key.namespace.clone(), key.name.clone());
        if let Some(class) = self.class_of_capacity.remove(&name)
            && let Some(of_class) = self.capacities.get_mut(&class)
        {
            of_class.remove(&name);
            if of_class.is_empty() {
                self.capacities.remove(&class);
            }
        }
        let Some(object) = object else { return };
        let class = object["storageClassName"].as_str().unwrap_or_default().to_owned();
        self.class_of_capacity.insert(name.clone(), class.clone());
        self.capacities.entry(class).or_default().insert(name, Capacity::new(object));
    }

    /// Whether the driver of a class says that a volume can be made for a node, if it says such things.
    fn has_room(&self, class: &Class, demand: &Demand, labels: &Labels) -> bool {
        if !self.tellers.contains(&*class.provisioner) {
            return true;
        }
        let mut all = self.capacities.get(&demand.class).into_iter().flat_map(HashMap::values);
        all.any(|capacity| {
            capacity.most >= demand.size && capacity.nodes.as_ref().is_some_and(|nodes| nodes.matches(labels))
        })
    }

    fn observe_claim(&mut self, key: &Key, object: Option<&Value>) -> News {
        let name = (key.namespace.clone(), key.name.clone());
        match object {
            Some(claim) => drop(self.claims.insert(name.clone(), Claim::new(claim))),
            None => drop(self.claims.remove(&name)),
        }
        News::Claim(name)
    }

    fn observe_volume(&mut self, name: &Arc<str>, object: Option<&Value>) -> News {
        let claim_of = |offer: &Offer| -> Option<ClaimName> {
            offer.claim.as_ref().map(|claim| (Arc::from(&*claim.namespace), Arc::from(&*claim.name)))
        };
        self.promised.remove(name);
        if let Some(old) = self.volumes.remove(name) {
            if let Some(free) = self.free.get_mut(&old.class) {
                free.remove(&(old.size, name.clone()));
            }
            if let Some(claim) = claim_of(&old)
                && let Some(kept) = self.kept_for.get_mut(&claim)
            {
                kept.remove(name);
                if kept.is_empty() {
                    self.kept_for.remove(&claim);
                }
            }
        }
        let Some(offer) = object.map(Offer::new) else { return News::Nothing };
        let news = match claim_of(&offer) {
            Some(claim) => {
                self.kept_for.entry(claim.clone()).or_default().insert(name.clone());
                News::Claim(claim)
            }
            None if offer.is_free() => {
                self.free.entry(offer.class.clone()).or_default().insert((offer.size, name.clone()));
                News::Everybody
            }
            None => News::Nothing,
        };
        self.volumes.insert(name.clone(), offer);
        news
    }

    /// Keeps volumes for the claims they were chosen for.
    pub fn promise(&mut self, choices: &[(ClaimName, Choice)]) {
        for (claim, choice) in choices {
            if let Choice::Volume(volume) = choice {
                self.promised.insert(volume.clone(), claim.clone());
            }
        }
    }

    /// What was chosen could not be written.
    pub fn take_back(&mut self, claims: impl Iterator<Item = ClaimName>) {
        let claims: HashSet<ClaimName> = claims.collect();
        self.promised.retain(|_, claim| !claims.contains(claim));
    }

    pub fn of_pod<'a>(&'a self, pod: &PodInfo, snapshot: &'a Snapshot) -> PodStorage<'a> {
        let mut found = PodStorage { view: Some(self), ..PodStorage::default() };
        for (name, is_own) in pod.claims.iter() {
            let full = (pod.key.namespace.clone(), name.clone());
            if let Err(why) = self.look_at(&full, *is_own, pod, snapshot, &mut found) {
                found.blocked = Some(why);
                break;
            }
        }
        found.is_waiting = !found.open.is_empty() && found.open.iter().all(|open| open.is_under_way);
        found
    }

    fn look_at<'a>(
        &'a self,
        name: &ClaimName,
        is_own: bool,
        pod: &PodInfo,
        snapshot: &'a Snapshot,
        found: &mut PodStorage<'a>,
    ) -> Result<(), String> {
        let shown = &name.1;
        let Some(claim) = self.claims.get(name) else {
            return Err(match is_own {
                true => format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {shown:?}"
                ),
                false => format!("persistentvolumeclaim {shown:?} not found"),
            });
        };
        if is_own && claim.owner.as_deref() != Some(&pod.uid) {
            return Err(format!(
                "PVC {}/{shown} was not created for pod {}/{} (pod is not owner)",
                name.0, name.0, pod.key.name
            ));
        }
        if claim.is_deleting {
            return Err(format!("persistentvolumeclaim {shown:?} is being deleted"));
        }
        let volume = claim.volume.as_deref().unwrap_or_default();
        if claim.is_lost {
            return Err(format!(
                "persistentvolumeclaim {shown:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.demand.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            found.exclusive_users.extend(snapshot.claim_users(name).filter(|(uid, _)| ***uid != *pod.uid));
        }
        if claim.volume.is_some() {
            match self.volumes.get(volume) {
                Some(offer) => found.bound.push(offer),
                None => found.volume_is_gone = true,
            }
            return Ok(());
        }
        let class = self.classes.get(&*claim.demand.class);
        if !class.is_some_and(|class| class.waits) {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        }
        let selected_node = claim.selected_node.as_deref();
        let is_under_way = selected_node.is_some() || self.is_given(name, &claim.uid);
        let (uid, demand) = (&*claim.uid, &claim.demand);
        found.open.push(Open { name: name.clone(), uid, demand, class, selected_node, is_under_way });
        Ok(())
    }

    /// Whether a volume was chosen for a claim already, and it is only to be bound.
    fn is_given(&self, claim: &ClaimName, uid: &str) -> bool {
        let mut kept =
            self.kept_for.get(claim).into_iter().flatten().filter_map(|name| self.volumes.get(name));
        kept.any(|offer| offer.claim.as_ref().is_some_and(|claim| claim.uid == uid))
            || self.promised.values().any(|other| other == claim)
    }

    /// A volume for an open claim on a node.
    fn choose(&self, open: &Open<'_>, node: &NodeInfo, taken: &[(ClaimName, Choice)]) -> Option<Choice> {
        if let Some(selected) = open.selected_node {
            return (*selected == *node.name).then_some(Choice::Make);
        }
        let reached = |offer: &&Offer| offer.is_reached_from(&node.name, &node.facts.labels);
        let kept =
            self.kept_for.get(&open.name).into_iter().flatten().filter_map(|name| self.volumes.get(name));
        let kept = kept.filter(|offer| {
            offer.is_for(&open.name.0, &open.name.1, open.uid) && offer.is_enough_for(open.demand)
        });
        let from = (open.demand.size, Arc::from(""));
        let free = self.free.get(&open.demand.class).into_iter().flat_map(|free| free.range(from.clone()..));
        let is_left = |name: &Arc<str>| {
            !self.promised.contains_key(name)
                && !taken.iter().any(|(_, choice)| *choice == Choice::Volume(name.clone()))
        };
        let free = free.map(|(_, name)| name).filter(|name| is_left(name));
        let free = free.filter_map(|name| self.volumes.get(name)).filter(|offer| offer.suits(open.demand));
        if let Some(offer) = kept.chain(free).find(reached) {
            return Some(Choice::Volume(offer.name.as_str().into()));
        }
        let class = open.class.filter(|class| class.makes)?;
        let labels = &node.facts.labels;
        let is_possible =
            storage::class_allows(&class.object, labels) && self.has_room(class, open.demand, labels);
        is_possible.then_some(Choice::Make)
    }

    /// The drivers' volumes of a pod, each once: the driver, and what that calls the volume.
    fn attached<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = pod.claims.iter().map(|(name, _)| (pod.key.namespace.clone(), name.clone()));
        let volumes = names.filter_map(|name| self.volumes.get(self.claims.get(&name)?.volume.as_deref()?));
        volumes
            .filter_map(|offer| offer.driver.as_ref())
            .map(|(driver, handle)| (driver.as_str(), handle.as_str()))
    }
}

/// A claim that gets its volume with the first pod.
struct Open<'a> {
    name: ClaimName,
    uid: &'a str,
    demand: &'a Demand,
    class: Option<&'a Class>,
    selected_node: Option<&'a str>,
    /// Its volume is being made, or bound.
    is_under_way: bool,
}

/// What one pod's claims ask.
#[derive(Default)]
pub struct PodStorage<'a> {
    /// Why no node will do.
    pub blocked: Option<String>,
    pub bound: Vec<&'a Offer>,
    /// A claim is bound to a volume that is not there.
    pub volume_is_gone: bool,
    /// Its volumes are being made.
    pub is_waiting: bool,
    /// Placed pods, with their nodes, that have a claim of this pod for themselves.
    pub exclusive_users: Vec<(&'a Arc<str>, &'a Arc<str>)>,
    open: Vec<Open<'a>>,
    view: Option<&'a Storage>,
}

impl PodStorage<'_> {
    /// A volume for each open claim on a node; None where one gets none.
    pub fn choose(&self, node: &NodeInfo) -> Option<Vec<(ClaimName, Choice)>> {
        let mut choices = Vec::new();
        for open in &self.open {
            let choice = self.view?.choose(open, node, &choices)?;
            choices.push((open.name.clone(), choice));
        }
        Some(choices)
    }

    /// Whether the node takes as many more volumes of each driver.
    pub fn is_within_limits(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let Some((view, limits)) = self.view.and_then(|view| Some((view, view.limits.get(&node.name)?)))
        else {
            return true;
        };
        let own: HashSet<(&str, &str)> = view.attached(pod).collect();
        let made = self.open.iter().filter_map(|open| open.class).map(|class| class.provisioner.as_str());
        let made: Vec<&str> = made.collect();
        limits.iter().all(|(driver, limit)| {
            let is_ours = |volume: &&(&str, &str)| volume.0 == driver;
            let mut all: HashSet<(&str, &str)> = own.iter().filter(is_ours).copied().collect();
            let new = made.iter().filter(|maker| ***maker == **driver).count();
            if all.is_empty() && new == 0 {
                return true;
            }
            for other in node.pods.values() {
                all.extend(view.attached(other).filter(|volume| volume.0 == driver));
            }
            all.len() + new <= *limit
        })
    }
}

impl Claim {
    fn new(claim: &Value) -> Self {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(Arc::<str>::from);
        let owners = claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.into_iter().find(|owner| owner["controller"] == true);
        Self {
            uid: claim["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            demand: Demand::new(claim),
            volume: storage::is_bound(claim).then(|| text(&claim["spec"]["volumeName"])).flatten(),
            selected_node: text(&claim["metadata"]["annotations"][storage::SELECTED_NODE]),
            owner: owner.and_then(|owner| owner["uid"].as_str()).map(str::to_owned),
            is_deleting: !claim["metadata"]["deletionTimestamp"].is_null(),
            is_lost: claim["status"]["phase"] == "Lost",
        }
    }
}

impl Capacity {
    fn new(object: &Value) -> Self {
        let amount = |field: &str| object[field].as_str().and_then(Quantity::parse);
        let topology = &object["nodeTopology"];
        Self {
            nodes: topology.is_object().then(|| LabelSelector::from_object(topology).ok()).flatten(),
            most: amount("maximumVolumeSize").or_else(|| amount("capacity")).unwrap_or(Quantity::ZERO),
        }
    }
}

impl Class {
    fn new(class: &Value) -> Self {
        let provisioner = class["provisioner"].as_str().unwrap_or_default();
        Self {
            waits: class["volumeBindingMode"] == "WaitForFirstConsumer",
            makes: !matches!(provisioner, "" | "kubernetes.io/no-provisioner"),
            provisioner: provisioner.to_owned(),
            object: class.clone(),
        }
    }
}

fn limits(node: &Value) -> HashMap<String, usize> {
    let drivers = node["spec"]["drivers"].as_array().into_iter().flatten();
    let counted = drivers.filter_map(|driver| {
        let count = driver["allocatable"]["count"].as_u64()?;
        Some((driver["name"].as_str()?.to_owned(), usize::try_from(count).ok()?))
    });
    counted.collect()
}
