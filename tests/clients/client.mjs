// What programs written with @kubernetes/client-node do, against the cluster of $KUBECONFIG.
//
// Names end in the first argument, so that several runs do not meet. Prints `ok` at its end; anything else is a failure.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { PassThrough, Writable } from 'node:stream';

// The modules lie where $CLIENT_NODE says, not beside this file.
const require = createRequire(`${process.env.CLIENT_NODE}/`);
const k8s = await import(require.resolve('@kubernetes/client-node'));

const namespace = 'default';
const suffix = process.argv[2];
const WAIT = 100_000;
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const json = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);

async function refused(code, reason, call) {
  await assert.rejects(call, (error) => {
    const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    assert.equal(error.code, code);
    assert.equal(status.reason, reason);
    return true;
  });
}

// Watches until an object is what `accept` takes.
function until(what, path, query, accept) {
  return new Promise((resolve, reject) => {
    let request;
    const timer = setTimeout(() => reject(new Error(`no ${what} in time`)), WAIT);
    const end = (act, value) => {
      clearTimeout(timer);
      // First: an abort is told as an error.
      act(value);
      request?.abort();
    };
    new k8s.Watch(config)
      .watch(
        path,
        query,
        (type, object) => accept(type, object) && end(resolve, object),
        (error) => error && end(reject, error),
      )
      .then((started) => (request = started), reject);
  });
}

function gathered() {
  const stream = new Writable({
    write(chunk, _encoding, next) {
      stream.text += chunk;
      next();
    },
  });
  stream.text = '';
  return stream;
}

function exec(pod, command, stdin) {
  return new Promise((resolve, reject) => {
    const [out, err] = [gathered(), gathered()];
    const ended = (status) => resolve({ out: out.text, err: err.text, status });
    new k8s.Exec(config).exec(namespace, pod, 'main', command, out, err, stdin, false, ended).catch(reject);
  });
}

// Create with a generated name, list, patch, watch, delete.
const path = `/api/v1/namespaces/${namespace}`;
const body = { metadata: { generateName: 'js-', labels: { run: suffix } }, data: { a: 'b' } };
const made = await core.createNamespacedConfigMap({ namespace, body });
const name = made.metadata.name;
assert.match(name, /^js-.{5}$/);
const patched = await core.patchNamespacedConfigMap({ name, namespace, body: { data: { c: 'd' } } }, json);
assert.deepEqual(patched.data, { a: 'b', c: 'd' });
const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: `run=${suffix}` });
assert.deepEqual(listed.items.map((item) => item.metadata.name), [name]);
const since = { labelSelector: `run=${suffix}`, resourceVersion: listed.metadata.resourceVersion };
const change = until('MODIFIED event', `${path}/configmaps`, since, (type) => type === 'MODIFIED');
await core.patchNamespacedConfigMap({ name, namespace, body: { data: { a: null } } }, json);
assert.deepEqual((await change).data, { c: 'd' });

// What is refused, and how.
await refused(409, 'Conflict', () => core.replaceNamespacedConfigMap({ name, namespace, body: made }));
await refused(409, 'AlreadyExists', () => core.createNamespacedConfigMap({ namespace, body: { metadata: { name } } }));
await core.deleteNamespacedConfigMap({ name, namespace });
await refused(404, 'NotFound', () => core.readNamespacedConfigMap({ name, namespace }));
await refused(422, 'Invalid', () => core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'No_Name' } } }));

// A pod: until it runs, its log, and commands in it over a WebSocket.
const pod = `js-${suffix}`;
const spec = {
  terminationGracePeriodSeconds: 0,
  containers: [
    {
      name: 'main',
      image: 'minik8s-test/busybox',
      imagePullPolicy: 'IfNotPresent',
      command: ['sh', '-c', 'echo hello; sleep 86400'],
    },
  ],
};
await core.createNamespacedPod({ namespace, body: { metadata: { name: pod }, spec } });
const only = { fieldSelector: `metadata.name=${pod}` };
await until('running pod', `${path}/pods`, only, (_type, object) => object.status.phase === 'Running');
const log = gathered();
const following = await new k8s.Log(config).log(namespace, pod, 'main', log, { follow: true });
const deadline = Date.now() + WAIT;
while (!log.text.includes('hello\n')) {
  assert(Date.now() < deadline, `no log in time: ${log.text}`);
  await new Promise((turn) => setTimeout(turn, 20));
}
following.abort();
const host = await exec(pod, ['hostname'], null);
assert.deepEqual([host.out, host.status.status], [`${pod}\n`, 'Success']);
const input = new PassThrough();
const session = exec(pod, ['sh'], input);
input.write('echo heard; exit 7\n');
const { out, status } = await session;
assert.deepEqual([out, status.reason, status.details.causes[0].message], ['heard\n', 'NonZeroExitCode', '7']);
await core.deleteNamespacedPod({ name: pod, namespace });

// Scaling.
const labels = { app: pod };
const template = { metadata: { labels }, spec };
const deployment = { metadata: { name: pod }, spec: { replicas: 0, selector: { matchLabels: labels }, template } };
await apps.createNamespacedDeployment({ namespace, body: deployment });
const scale = await apps.readNamespacedDeploymentScale({ name: pod, namespace });
assert.equal(scale.spec.replicas ?? 0, 0);
const one = { name: pod, namespace, body: { spec: { replicas: 1 } } };
assert.equal((await apps.patchNamespacedDeploymentScale(one, json)).spec.replicas, 1);
const deployments = `/apis/apps/v1/namespaces/${namespace}/deployments`;
await until('available replica', deployments, only, (_type, object) => object.status.availableReplicas === 1);
await apps.deleteNamespacedDeployment({ name: pod, namespace });

// An informer, and the client that asks discovery for everything.
const list = () => core.listNamespacedPod({ namespace });
const informer = k8s.makeInformer(config, `${path}/pods`, list);
await informer.start();
await informer.stop();
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
assert.equal((await objects.list('apps/v1', 'Deployment', namespace)).kind, 'DeploymentList');
console.log('ok');
process.exit(0);
