"""Learns from the traces that nodes sent: a profile, and the bundle of it in their release."""

from orioncache.profile import format as profiles
from orioncache.profile.build import build
from orioncache.profile.carry import carry
from orioncache.profile.inbox import Group, Inbox
from orioncache.release import bundling
from orioncache.release.content import open_manifest
from orioncache.release.sign import is_signed_by, sign_bundle
from orioncache.release.text import size
from orioncache.trace.format import read


def learn(inbox: Inbox, group: Group, *, secret: bytes | None, share: float) -> str:
    """Writes profile and bundle of a group anew; what became of it, in one line.

    A release that is signed gets a bundle only if that can be signed as well: nodes take no other, and it
    would be in the place of one that they take.

    Args:
        inbox: where its traces are.
        group: which.
        secret: the key that signs the bundle of a signed release; None: there is none.
        share: pages that fewer of the boots touched are left out (0 to 1).

    Raises:
        UserError: the release is gone or damaged, or its store is being cleaned.
        OSError: it cannot be written.
    """
    store = inbox.store
    release = store.release(group.name, group.version)
    with store.locked():
        profile = build([(path, read(path)) for path in inbox.traces(group)], group.role)
        profiles.write(profile, inbox.profile(group))
        boots = f"{profile.boots} boot{'s' * (profile.boots != 1)}"
        signed = release.signature.exists()
        if signed and (secret is None or not is_signed_by(release, secret)):
            why = "there is no --key" if secret is None else "not with this key"
            return (
                f"{boots}, no bundle: the release is signed, and {why}: orioncache release bundle "
                f"{store.path} {group.name} {group.version} --profile {inbox.profile(group)}, and sign it"
            )
        manifest = open_manifest(release.path)
        carried = carry(profile, manifest, share=share)
        if not carried.pieces:
            return f"{boots}, no bundle: nothing of them is in the release"
        written = bundling.write(release.path, manifest, group.role, carried.pieces, profile.boots)
        if signed and secret is not None:
            sign_bundle(written.path, secret)
    return f"{boots}, {size(written.raw_bytes)} in {size(written.size)}: {written.path}"
