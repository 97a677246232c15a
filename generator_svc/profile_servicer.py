"""The profile service: checks requests, calls the store, converts what comes back."""

import base64
import binascii
from collections.abc import Callable

import grpc

from generator_svc.profiles import DamagedProfile, Preference, Profile, ProfileStore
from generator_svc.request_checks import parse_beta, parse_preferences, parse_user_id
from pad.v1 import profile_pb2 as pb
from pad.v1 import profile_pb2_grpc as pb_grpc
from svc_common.callers import current_caller
from svc_common.errors import InvalidRequestError
from svc_common.preference_text import check_preference_text

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000
# A client reads messages of up to 4 MiB unless it is told otherwise.
_MAX_PAGE_BYTES = 3 * 1024 * 1024


class ProfileServicer(pb_grpc.ProfileServiceServicer):
    """Serves the profiles of the caller's tenant."""

    def __init__(
        self,
        store: ProfileStore,
        check_text: Callable[[str, str], None],
    ) -> None:
        """Make a servicer.

        Args:
            store: Where profiles are kept.
            check_text: Given a field and its text, raises InvalidRequestError for what the base
                model cannot be shown: a profile with it could be kept, but never be used.
        """
        self._store = store
        self._check_text = check_text

    async def PutProfile(
        self,
        request: pb.PutProfileRequest,
        context: grpc.aio.ServicerContext[pb.PutProfileRequest, pb.PutProfileResponse],
    ) -> pb.PutProfileResponse:
        has_revision = request.HasField("expected_revision")
        user_id = parse_user_id(request.user_id)
        preferences = parse_preferences(request.preferences)
        self._check_texts(preferences)
        profile = await self._store.put(
            current_caller().tenant,
            user_id,
            preferences,
            parse_beta(request.beta) if request.HasField("beta") else None,
            request.expected_revision if has_revision else None,
            erases_history=request.erases_history,
        )
        return pb.PutProfileResponse(profile=_to_message(profile))

    def _check_texts(self, preferences: tuple[Preference, ...]) -> None:
        for i, preference in enumerate(preferences):
            self._check_text(f"preferences[{i}].text", preference.text)

    def _check_restored(self, preferences: tuple[Preference, ...]) -> None:
        """Ask of what was stored, perhaps by an older version, what is asked of a caller."""
        for i, preference in enumerate(preferences):
            check_preference_text(f"preferences[{i}].text", preference.text)
        self._check_texts(preferences)

    async def GetProfile(
        self,
        request: pb.GetProfileRequest,
        context: grpc.aio.ServicerContext[pb.GetProfileRequest, pb.GetProfileResponse],
    ) -> pb.GetProfileResponse:
        user_id = parse_user_id(request.user_id)
        profile = await self._store.get(current_caller().tenant, user_id)
        return pb.GetProfileResponse(profile=_to_message(profile))

    async def DeleteProfile(
        self,
        request: pb.DeleteProfileRequest,
        context: grpc.aio.ServicerContext[pb.DeleteProfileRequest, pb.DeleteProfileResponse],
    ) -> pb.DeleteProfileResponse:
        user_id = parse_user_id(request.user_id)
        expected = _expected_revision(request)
        await self._store.delete(current_caller().tenant, user_id, expected)
        return pb.DeleteProfileResponse()

    async def ListProfiles(
        self,
        request: pb.ListProfilesRequest,
        context: grpc.aio.ServicerContext[pb.ListProfilesRequest, pb.ListProfilesResponse],
    ) -> pb.ListProfilesResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        if size > _MAX_PAGE_SIZE:
            raise InvalidRequestError(f"page_size: must be 1..{_MAX_PAGE_SIZE}, got {size}")
        after = _from_token(request.page_token)
        tenant = current_caller().tenant
        # More than a page has is not read: a thousand of the largest profiles are 200 MB in Redis.
        found = await self._store.list_profiles(tenant, size + 1, after, _MAX_PAGE_BYTES)
        response, last = _page(found[:size])
        is_last = last == found[-1].user_id if found else True
        response.next_page_token = "" if is_last else _to_token(last)
        return response

    async def ListProfileRevisions(
        self,
        request: pb.ListProfileRevisionsRequest,
        context: grpc.aio.ServicerContext[
            pb.ListProfileRevisionsRequest, pb.ListProfileRevisionsResponse
        ],
    ) -> pb.ListProfileRevisionsResponse:
        user_id = parse_user_id(request.user_id)
        history = await self._store.history(current_caller().tenant, user_id)
        current = [] if history.current is None else [history.current]
        return pb.ListProfileRevisionsResponse(
            revisions=map(_to_message, [*current, *(one.profile for one in history.earlier)]),
            current_revision=current[0].revision if current else 0,
            num_damaged=history.num_damaged,
        )

    async def RestoreProfile(
        self,
        request: pb.RestoreProfileRequest,
        context: grpc.aio.ServicerContext[pb.RestoreProfileRequest, pb.RestoreProfileResponse],
    ) -> pb.RestoreProfileResponse:
        user_id = parse_user_id(request.user_id)
        if request.revision == 0:
            raise InvalidRequestError("revision: must be >= 1, got 0")
        profile = await self._store.restore(
            current_caller().tenant,
            user_id,
            request.revision,
            _expected_revision(request),
            self._check_restored,
        )
        return pb.RestoreProfileResponse(profile=_to_message(profile))


def _expected_revision(request: pb.DeleteProfileRequest | pb.RestoreProfileRequest) -> int | None:
    """Return the revision of a profile that must be there.

    Raises:
        InvalidRequestError: It is 0.
    """
    if not request.HasField("expected_revision"):
        return None
    if request.expected_revision == 0:
        raise InvalidRequestError("expected_revision: must be >= 1 or absent, got 0")
    return request.expected_revision


def _to_message(profile: Profile) -> pb.Profile:
    message = pb.Profile(user_id=profile.user_id, beta=profile.beta, revision=profile.revision)
    for preference in profile.preferences:
        message.preferences.add(text=preference.text, weight=preference.weight)
    message.updated_at.FromMilliseconds(round(profile.updated_at * 1000))
    return message


def _page(found: list[Profile | DamagedProfile]) -> tuple[pb.ListProfilesResponse, str]:
    """Return as many of the first ones as one message can carry (at least one), and the last id."""
    page, num_bytes, last = pb.ListProfilesResponse(), 0, ""
    for one in found:
        message = None if isinstance(one, DamagedProfile) else _to_message(one)
        num_bytes += len(one.user_id) if message is None else message.ByteSize()
        if num_bytes > _MAX_PAGE_BYTES and last:
            break
        if message is None:
            page.damaged_user_ids.append(one.user_id)
        else:
            page.profiles.append(message)
        last = one.user_id
    return page, last


def _to_token(user_id: str) -> str:
    return base64.urlsafe_b64encode(user_id.encode()).decode()


def _from_token(token: str) -> str:
    """Return the user id behind which a page begins.

    Raises:
        InvalidRequestError: It is no token of ours.
    """
    if not token:
        return ""
    try:
        return parse_user_id(base64.b64decode(token, altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError, InvalidRequestError) as error:
        raise InvalidRequestError(
            "page_token: must be the next_page_token of another page,"
            f" got {len(token)} other characters"
        ) from error
