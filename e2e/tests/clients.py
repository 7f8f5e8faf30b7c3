"""What a team's automation does with Python's client: typed objects, a watch, exec, a patch, an error."""
from kubernetes import client, config, watch
from kubernetes.stream import stream

IMAGE = "pilothouse.example/busybox:1"
NAMESPACE = "python"

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))

labels = {"app": "sleeper"}
container = client.V1Container(name="main", image=IMAGE, command=["sleep", "3600"])
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels=labels),
    spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0),
)
spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)
apps.create_namespaced_deployment(
    NAMESPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name="sleeper"), spec=spec)
)

pod = None
for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, label_selector="app=sleeper", timeout_seconds=60):
    statuses = event["object"].status.container_statuses or []
    if statuses and statuses[0].ready:
        pod = event["object"].metadata.name
        break
assert pod, "no pod became ready"

said = stream(
    core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=["echo", "from the inside"],
    stdout=True, stderr=True, stdin=False, tty=False,
)
assert said.strip() == "from the inside", said

apps.patch_namespaced_deployment_scale("sleeper", NAMESPACE, {"spec": {"replicas": 2}})
assert apps.read_namespaced_deployment_scale("sleeper", NAMESPACE).spec.replicas == 2
try:
    core.read_namespaced_secret("nothing", NAMESPACE)
    raise AssertionError("a secret that is not there was read")
except client.ApiException as refused:
    assert refused.status == 404 and "not found" in refused.body, refused
core.delete_namespace(NAMESPACE)
print("done")
