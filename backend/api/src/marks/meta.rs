//! Marks of the types of meta/v1 (Kubernetes v1.36).
use super::{Field, field};

#[rustfmt::skip] // one line a field
pub(super) const TYPES: &[(&str, &[Field])] = &[
    ("meta.v1.APIGroup", &[
        field("serverAddressByClientCIDRs").atomic(),
        field("versions").atomic(),
    ]),
    ("meta.v1.APIGroupList", &[
        field("groups").atomic(),
    ]),
    ("meta.v1.APIResource", &[
        field("categories").atomic(),
        field("shortNames").atomic(),
    ]),
    ("meta.v1.APIResourceList", &[
        field("resources").atomic(),
    ]),
    ("meta.v1.APIVersions", &[
        field("serverAddressByClientCIDRs").atomic(),
        field("versions").atomic(),
    ]),
    ("meta.v1.DeleteOptions", &[
        field("dryRun").atomic(),
    ]),
    ("meta.v1.FieldSelectorRequirement", &[
        field("values").atomic(),
    ]),
    ("meta.v1.LabelSelector", &[
        field("matchExpressions").atomic(),
    ]),
    ("meta.v1.LabelSelectorRequirement", &[
        field("values").atomic(),
    ]),
    ("meta.v1.ObjectMeta", &[
        field("finalizers").set().merge(""),
        field("managedFields").atomic(),
        field("ownerReferences").keyed(&["uid"]).merge("uid").of("meta.v1.OwnerReference"),
    ]),
    ("meta.v1.Status", &[
        field("details").of("meta.v1.StatusDetails"),
    ]),
    ("meta.v1.StatusDetails", &[
        field("causes").atomic(),
    ]),
];
