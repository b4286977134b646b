"""The node `checkpoint_manager` beside the policy in their real process."""

import json

import numpy as np
import pytest
from policy_live import MANAGER, POLICY, ParameterClient, PolicyProcess

from vla_align_ros.checkpoint.manifest import Provenance
from vla_align_ros.checkpoint.store import TokenStore

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope="module")
def node(shared_ros, tmp_path_factory):
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("manager"), keep_versions=2)
    made.wait_for_state("active", MANAGER)
    announced(made, "000001")
    return made


@pytest.fixture(autouse=True)
def _alive(node):
    yield
    assert node.process.running


def announced(node, version):
    """The announcement of a version, wait for it if need be."""
    return json.loads(node.announced.wait(lambda message: json.loads(message.data)["version"] == version).data)


def policy_runs(node, version):
    node.wait_for_status("alignment", lambda status: status.values["token_version"] == version)


def new_version(node):
    """The model's own token as another version."""
    answer = node.trigger("reset_e_token")
    assert answer.success, answer.message
    active = TokenStore(node.store, 20).active()
    assert active.name in answer.message
    return active.name


def test_active_version_is_announced_with_store_and_sha256_also_to_those_who_come_late(node, shared_ros):
    version = TokenStore(node.store, 20).active()
    found = announced(node, version.name)
    assert found == {
        "version": version.name,
        "sha256": version.manifest.token_sha256,
        "store": str(node.store.resolve()),
    }


def test_list_save_roll_back_and_restore_and_the_policy_follows(node):
    first, second = new_version(node), new_version(node)
    announced(node, second)
    policy_runs(node, second)

    saved = node.ask_manager("save")
    assert saved["version"] == second
    assert saved["pinned"]
    listed = node.ask_manager("list")
    assert listed["active"] == second
    assert listed["pinned"] == [second]
    assert [version["version"] for version in listed["versions"]][-2:] == [first, second]
    assert not listed["corrupted"]

    assert node.ask_manager("roll_back")["version"] == first
    policy_runs(node, first)
    assert node.ask_manager("list")["active"] == first
    assert node.ask_manager("restore")["version"] == second
    policy_runs(node, second)


def test_pinned_versions_are_kept_when_others_are_pruned(node):
    pinned = node.ask_manager("save")["version"]
    store = TokenStore(node.store, 2)
    for _ in range(3):
        store.save(store.active().token, _provenance_of(store.active()))
    names = [version["version"] for version in node.ask_manager("list")["versions"]]
    assert pinned in names
    assert len(names) < 2 + 3


def _provenance_of(version):
    names = Provenance.__dataclass_fields__
    return Provenance(**{name: getattr(version.manifest, name) for name in names})


def test_version_saved_by_another_process_is_announced_and_used(node):
    store = TokenStore(node.store, 20)
    version = store.save(store.active().token + 0.01, _provenance_of(store.active()))
    assert announced(node, version.name)["sha256"] == version.manifest.token_sha256
    policy_runs(node, version.name)


def test_corrupted_version_is_reported_and_never_used(node):
    newest = new_version(node)
    token = node.store / "versions" / newest / "token.safetensors"
    token.write_bytes(token.read_bytes()[:-1])
    restored = node.ask_manager("restore")["version"]
    assert restored < newest
    listed = node.ask_manager("list")
    assert listed["active"] == restored
    assert newest in listed["corrupted"]
    policy_runs(node, restored)


def test_roll_back_with_nothing_to_go_back_to_is_answered_and_changes_nothing(node):
    for _ in range(20):
        answer = node.trigger("roll_back", MANAGER)
        if not answer.success:
            break
    assert "nothing to roll back to" in answer.message
    active = node.ask_manager("list")["active"]
    assert json.loads(node.announced.messages[-1].data)["version"] == active


def test_services_say_that_the_manager_must_be_configured(node):
    node.bring_to("unconfigured", MANAGER)
    for service in ("save", "restore", "roll_back", "list"):
        answer = node.trigger(service, MANAGER)
        assert not answer.success
        assert "unconfigured: configure it first" in answer.message
    node.bring_to("active", MANAGER)


def test_store_of_another_model_is_refused_with_what_differs_and_corrected(node, tmp_path, shared_ros):
    other = _provenance_of(TokenStore(node.store, 20).active())
    fields = {name: getattr(other, name) for name in Provenance.__dataclass_fields__}
    fields |= {"model_name": "other", "base_weights_sha256": "0" * 64, "state_fields": ("hip", "knee")}
    TokenStore(tmp_path / "store", 20).save(np.zeros((4, 96), np.float32), Provenance(**fields))
    parameters = ParameterClient(shared_ros, "vla_policy")
    node.bring_to("unconfigured", POLICY)
    assert not parameters.set(store=str(tmp_path / "store"))
    assert not node.transition("configure")
    assert node.state() == "unconfigured"
    node.logged("is for another model (other)")
    for words in ("base_weights_sha256 is 0000", "state_fields is ('hip', 'knee')"):
        node.logged(words)
    assert not parameters.set(store=str(node.store))
    node.bring_to("active", POLICY)
