//! Marks of the types of resource.k8s.io (Kubernetes v1.36).
use super::{Field, field};

#[rustfmt::skip] // one line a field
pub(super) const TYPES: &[(&str, &[Field])] = &[
    ("resource.v1.AllocatedDeviceStatus", &[
        field("conditions").keyed(&["type"]),
        field("networkData").of("resource.v1.NetworkDeviceData"),
    ]),
    ("resource.v1.AllocationResult", &[
        field("devices").of("resource.v1.DeviceAllocationResult"),
        field("nodeSelector").of("core.v1.NodeSelector"),
    ]),
    ("resource.v1.CapacityRequestPolicy", &[
        field("validValues").atomic(),
    ]),
    ("resource.v1.Device", &[
        field("attributes").values("resource.v1.DeviceAttribute"),
        field("bindingConditions").atomic(),
        field("bindingFailureConditions").atomic(),
        field("capacity").values("resource.v1.DeviceCapacity"),
        field("consumesCounters").atomic(),
        field("nodeSelector").of("core.v1.NodeSelector"),
        field("taints").atomic(),
    ]),
    ("resource.v1.DeviceAllocationConfiguration", &[
        field("requests").atomic(),
    ]),
    ("resource.v1.DeviceAllocationResult", &[
        field("config").atomic(),
        field("results").atomic(),
    ]),
    ("resource.v1.DeviceAttribute", &[
        field("bools").atomic(),
        field("ints").atomic(),
        field("strings").atomic(),
        field("versions").atomic(),
    ]),
    ("resource.v1.DeviceCapacity", &[
        field("requestPolicy").of("resource.v1.CapacityRequestPolicy"),
    ]),
    ("resource.v1.DeviceClaim", &[
        field("config").atomic(),
        field("constraints").atomic(),
        field("requests").atomic(),
    ]),
    ("resource.v1.DeviceClaimConfiguration", &[
        field("requests").atomic(),
    ]),
    ("resource.v1.DeviceClass", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("resource.v1.DeviceClassSpec"),
    ]),
    ("resource.v1.DeviceClassSpec", &[
        field("config").atomic(),
        field("selectors").atomic(),
    ]),
    ("resource.v1.DeviceConstraint", &[
        field("requests").atomic(),
    ]),
    ("resource.v1.DeviceRequest", &[
        field("exactly").of("resource.v1.ExactDeviceRequest"),
        field("firstAvailable").atomic(),
    ]),
    ("resource.v1.DeviceRequestAllocationResult", &[
        field("bindingConditions").atomic(),
        field("bindingFailureConditions").atomic(),
        field("tolerations").atomic(),
    ]),
    ("resource.v1.DeviceSubRequest", &[
        field("selectors").atomic(),
        field("tolerations").atomic(),
    ]),
    ("resource.v1.ExactDeviceRequest", &[
        field("selectors").atomic(),
        field("tolerations").atomic(),
    ]),
    ("resource.v1.NetworkDeviceData", &[
        field("ips").atomic(),
    ]),
    ("resource.v1.ResourceClaim", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("resource.v1.ResourceClaimSpec"),
        field("status").of("resource.v1.ResourceClaimStatus"),
    ]),
    ("resource.v1.ResourceClaimSpec", &[
        field("devices").of("resource.v1.DeviceClaim"),
    ]),
    ("resource.v1.ResourceClaimStatus", &[
        field("allocation").of("resource.v1.AllocationResult"),
        field("devices").keyed(&["driver", "device", "pool", "shareID"]).of("resource.v1.AllocatedDeviceStatus"),
        field("reservedFor").keyed(&["uid"]).merge("uid"),
    ]),
    ("resource.v1.ResourceClaimTemplate", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("resource.v1.ResourceClaimTemplateSpec"),
    ]),
    ("resource.v1.ResourceClaimTemplateSpec", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("resource.v1.ResourceClaimSpec"),
    ]),
    ("resource.v1.ResourceSlice", &[
        field("metadata").of("meta.v1.ObjectMeta"),
        field("spec").of("resource.v1.ResourceSliceSpec"),
    ]),
    ("resource.v1.ResourceSliceSpec", &[
        field("devices").atomic(),
        field("nodeSelector").of("core.v1.NodeSelector"),
        field("sharedCounters").atomic(),
    ]),
];
