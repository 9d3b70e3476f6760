//! The vendor's SDK reads everything that the simulator says: the simulator is not just our opinion.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::catalogue::{ENTRIES, Entry, Operation};
use shared::id::Kind;
use tokio::sync::mpsc::unbounded_channel;
use workos::{Page, models};

use super::answer::Answer;
use super::knobs::Knobs;
use super::object;
use super::rest::Asked;
use super::state::{Manner, State, clock};
use super::store::NOW;

fn state() -> State {
    State::new(Knobs::default(), 1, unbounded_channel().0)
}

/// What a GET answers.
fn ask(state: &mut State, target: &str) -> Value {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let plan = state.plan(&Asked { is_get: true, path, query, authorized: true }, clock());
    let Answer::Reply(reply) = plan.answer else { panic!("no answer to {target}") };
    assert_eq!(reply.status, 200, "{target}");
    serde_json::from_slice(&reply.body).unwrap()
}

/// Reads it as the SDK does, and says what it is that it cannot read.
fn reads<T: DeserializeOwned>(what: &str, value: &Value) -> Result<(), String> {
    match serde_json::from_value::<T>(value.clone()) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{what}: {error} in {value}")),
    }
}

/// The same, of one model.
type Reads = fn(&str, &Value) -> Result<(), String>;

/// Makes an object with what it cannot exist without. Returns what it is asked for by.
fn make(state: &mut State, kind: Kind) -> String {
    let mut given = object::Fields::new();
    for (field, parent) in object::of(kind).parents() {
        let key = make(state, *parent);
        if matches!(kind, Kind::DirectoryUser | Kind::DirectoryGroup) {
            // The SDK does not read those of a directory without an organization.
            let directory = state.store.view(NOW).fields(*parent, &key).unwrap();
            given.insert("organization_id".to_owned(), directory["organization_id"].clone());
        }
        given.insert((*field).to_owned(), key.into());
    }
    state.create(kind, given, Manner::Silent, clock())
}

/// The SDK's models of one object and of its list, by the name of the kind. What it has no model for is only answered as
/// a list of something else.
fn read_object(kind: Kind, one: &Value) -> Option<Result<(), String>> {
    let name = kind.name();
    Some(match name {
        "user" => reads::<models::User>(name, one),
        "organization" => reads::<models::Organization>(name, one),
        "organization_domain" => reads::<models::OrganizationDomain>(name, one),
        "organization_membership" => reads::<models::UserOrganizationMembership>(name, one),
        "connection" => reads::<models::Connection>(name, one),
        "invitation" => reads::<models::UserInvite>(name, one),
        "role" | "organization_role" => reads::<models::Role>(name, one),
        "permission" => reads::<models::AuthorizationPermission>(name, one),
        "feature_flag" => reads::<models::Flag>(name, one),
        "directory" => reads::<models::Directory>(name, one),
        "directory_user" => reads::<models::DirectoryUserWithGroups>(name, one),
        "directory_group" => reads::<models::DirectoryGroup>(name, one),
        "group" => reads::<models::Group>(name, one),
        "session" => reads::<models::UserSessionsListItem>(name, one),
        "api_key" => reads::<models::OrganizationApiKey>(name, one),
        _ => return None,
    })
}

fn read_list(kind: Kind, list: &Value) -> Option<Result<(), String>> {
    let name = kind.name();
    Some(match name {
        "user" => reads::<models::UserList>(name, list),
        "organization" => reads::<models::OrganizationList>(name, list),
        "organization_membership" => reads::<models::UserOrganizationMembershipList>(name, list),
        "connection" => reads::<models::ConnectionList>(name, list),
        "invitation" => reads::<models::UserInviteList>(name, list),
        "role" | "organization_role" => reads::<models::RoleList>(name, list),
        "permission" => reads::<models::AuthorizationPermissionList>(name, list),
        "feature_flag" => reads::<models::FlagList>(name, list),
        "directory" => reads::<models::DirectoryList>(name, list),
        "directory_user" => reads::<models::DirectoryUserList>(name, list),
        "directory_group" => reads::<models::DirectoryGroupList>(name, list),
        "group" => reads::<models::GroupList>(name, list),
        _ => return None,
    })
}

#[test]
fn the_sdk_reads_every_object_and_every_list() {
    let mut state = state();
    let mut unread = Vec::new();
    for kind in Kind::ALL {
        let key = make(&mut state, kind);
        let object = object::of(kind);
        let own = state.store.view(NOW).fields(kind, &key).unwrap().clone();
        let of =
            object.parents().first().and_then(|(field, _)| object::text(&own, field)).unwrap_or_default();
        let path = object.path().replace("{}", of);
        let shown = state.store.view(NOW).represent(kind, &key).unwrap();
        if let Some(read) = read_object(kind, &shown) {
            unread.extend(read.err());
            let last = key.rsplit('/').next().unwrap();
            let (route, _) = super::rest::route(&format!("{path}/{last}"));
            if route == super::requests::Route::Get(kind) {
                assert_eq!(ask(&mut state, &format!("{path}/{last}")), shown, "{kind}");
            }
        }
        // Where there is no list of everything, it is of what it hangs on.
        let list = match object.parents().first() {
            Some((field, _)) => format!("{path}?{field}={of}&directory={of}"),
            None => path,
        };
        if kind != Kind::OrganizationDomain && read_list(kind, &json!({})).is_some() {
            let list = ask(&mut state, &list);
            assert!(list["data"].as_array().is_some_and(|items| !items.is_empty()), "{kind}");
            unread.extend(read_list(kind, &list).and_then(Result::err));
        }
    }
    assert!(unread.is_empty(), "{}", unread.join("\n"));
}

/// An API key of a user, for an organization.
fn users_key(state: &mut State) -> (String, String) {
    let (user, organization) = (make(state, Kind::User), make(state, Kind::Organization));
    let owner = json!({"type": "user", "id": user, "organization_id": organization});
    let given = object::fields(json!({"owner": owner}));
    (state.create(Kind::ApiKey, given, Manner::Silent, clock()), user)
}

#[test]
fn the_sdk_reads_every_list_that_a_relation_is_asked_for_with() {
    let mut state = state();
    let session = make(&mut state, Kind::Session);
    let key = make(&mut state, Kind::ApiKey);
    let (users_key, owner) = users_key(&mut state);
    let member = make(&mut state, Kind::GroupMembership);
    let person = make(&mut state, Kind::DirectoryGroupMembership);
    let of = |kind: Kind, key: &str, pointer: &str| {
        let shown = state.store.view(NOW).represent(kind, key).unwrap();
        shown.pointer(pointer).and_then(Value::as_str).unwrap().to_owned()
    };
    let user = of(Kind::Session, &session, "/user_id");
    let organization = of(Kind::ApiKey, &key, "/owner/id");
    let (membership, group) = (
        of(Kind::GroupMembership, &member, "/organization_membership_id"),
        of(Kind::GroupMembership, &member, "/group_id"),
    );
    let holder = of(Kind::Group, &group, "/organization_id");
    let (directory_user, directory_group) = (
        of(Kind::DirectoryGroupMembership, &person, "/directory_user_id"),
        of(Kind::DirectoryGroupMembership, &person, "/directory_group_id"),
    );
    let lists: [(String, &String, Reads); 7] = [
        // The SDK has no name for this list.
        (
            format!("/user_management/users/{user}/sessions"),
            &session,
            reads::<Page<models::UserSessionsListItem>>,
        ),
        (format!("/organizations/{organization}/api_keys"), &key, reads::<models::OrganizationApiKeyList>),
        (format!("/user_management/users/{owner}/api_keys"), &users_key, reads::<models::UserApiKeyList>),
        (
            format!("/organizations/{holder}/groups/{group}/organization-memberships"),
            &membership,
            reads::<models::UserOrganizationMembershipBaseList>,
        ),
        (
            format!("/user_management/organization_memberships/{membership}/groups"),
            &group,
            reads::<models::GroupList>,
        ),
        (
            format!("/directory_groups?user={directory_user}"),
            &directory_group,
            reads::<models::DirectoryGroupList>,
        ),
        (
            format!("/directory_users?group={directory_group}"),
            &directory_user,
            reads::<models::DirectoryUserList>,
        ),
    ];
    let mut unread = Vec::new();
    for (target, id, read) in lists {
        let list = ask(&mut state, &target);
        let shown: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
        assert_eq!(shown, [id], "{target}");
        unread.extend(read(&target, &list).err());
    }
    assert!(unread.is_empty(), "{}", unread.join("\n"));
}

macro_rules! events {
    ($( $event_type:literal => $model:ident ),+ $(,)?) => {
        fn read_event(event_type: &str, event: &Value) -> Option<Result<(), String>> {
            match event_type {
                $( $event_type => Some(reads::<models::$model>(event_type, event)), )+
                _ => None,
            }
        }
    };
}

events! {
    "user.created" => UserCreated,
    "user.updated" => UserUpdated,
    "user.deleted" => UserDeleted,
    "organization.created" => OrganizationCreated,
    "organization.updated" => OrganizationUpdated,
    "organization.deleted" => OrganizationDeleted,
    "organization_domain.created" => OrganizationDomainCreated,
    "organization_domain.updated" => OrganizationDomainUpdated,
    "organization_domain.deleted" => OrganizationDomainDeleted,
    "organization_domain.verified" => OrganizationDomainVerified,
    "organization_domain.verification_failed" => OrganizationDomainVerificationFailed,
    "organization_membership.created" => OrganizationMembershipCreated,
    "organization_membership.updated" => OrganizationMembershipUpdated,
    "organization_membership.deleted" => OrganizationMembershipDeleted,
    "role.created" => RoleCreated,
    "role.updated" => RoleUpdated,
    "role.deleted" => RoleDeleted,
    "organization_role.created" => OrganizationRoleCreated,
    "organization_role.updated" => OrganizationRoleUpdated,
    "organization_role.deleted" => OrganizationRoleDeleted,
    "permission.created" => PermissionCreated,
    "permission.updated" => PermissionUpdated,
    "permission.deleted" => PermissionDeleted,
    "dsync.activated" => DsyncActivated,
    "dsync.deleted" => DsyncDeleted,
    "dsync.user.created" => DsyncUserCreated,
    "dsync.user.updated" => DsyncUserUpdated,
    "dsync.user.deleted" => DsyncUserDeleted,
    "dsync.group.created" => DsyncGroupCreated,
    "dsync.group.updated" => DsyncGroupUpdated,
    "dsync.group.deleted" => DsyncGroupDeleted,
    "dsync.group.user_added" => DsyncGroupUserAdded,
    "dsync.group.user_removed" => DsyncGroupUserRemoved,
    "dsync.token.created" => DsyncTokenCreated,
    "dsync.token.revoked" => DsyncTokenRevoked,
    "connection.activated" => ConnectionActivated,
    "connection.deactivated" => ConnectionDeactivated,
    "connection.deleted" => ConnectionDeleted,
    "connection.saml_certificate_renewal_required" => ConnectionSAMLCertificateRenewalRequired,
    "connection.saml_certificate_renewed" => ConnectionSAMLCertificateRenewed,
    "invitation.created" => InvitationCreated,
    "invitation.accepted" => InvitationAccepted,
    "invitation.revoked" => InvitationRevoked,
    "invitation.resent" => InvitationResent,
    "session.created" => SessionCreated,
    "session.revoked" => SessionRevoked,
    "api_key.created" => ApiKeyCreated,
    "api_key.updated" => ApiKeyUpdated,
    "api_key.revoked" => ApiKeyRevoked,
    "flag.created" => FlagCreated,
    "flag.updated" => FlagUpdated,
    "flag.deleted" => FlagDeleted,
    "flag.rule_updated" => FlagRuleUpdated,
    "group.created" => GroupCreated,
    "group.updated" => GroupUpdated,
    "group.deleted" => GroupDeleted,
    "group.member_added" => GroupMemberAdded,
    "group.member_removed" => GroupMemberRemoved,
    "waitlist_user.created" => WaitlistUserCreated,
    "waitlist_user.approved" => WaitlistUserApproved,
    "waitlist_user.denied" => WaitlistUserDenied,
    "email_verification.created" => EmailVerificationCreated,
    "magic_auth.created" => MagicAuthCreated,
    "password_reset.created" => PasswordResetCreated,
    "password_reset.succeeded" => PasswordResetSucceeded,
    "authentication.email_verification_failed" => AuthenticationEmailVerificationFailed,
    "authentication.email_verification_succeeded" => AuthenticationEmailVerificationSucceeded,
    "authentication.magic_auth_failed" => AuthenticationMagicAuthFailed,
    "authentication.magic_auth_succeeded" => AuthenticationMagicAuthSucceeded,
    "authentication.mfa_failed" => AuthenticationMfaFailed,
    "authentication.mfa_succeeded" => AuthenticationMfaSucceeded,
    "authentication.oauth_failed" => AuthenticationOAuthFailed,
    "authentication.oauth_succeeded" => AuthenticationOAuthSucceeded,
    "authentication.passkey_failed" => AuthenticationPasskeyFailed,
    "authentication.passkey_succeeded" => AuthenticationPasskeySucceeded,
    "authentication.password_failed" => AuthenticationPasswordFailed,
    "authentication.password_succeeded" => AuthenticationPasswordSucceeded,
    "authentication.radar_risk_detected" => AuthenticationRadarRiskDetected,
    "authentication.reauthentication_succeeded" => AuthenticationReauthenticationSucceeded,
    "authentication.sso_failed" => AuthenticationSSOFailed,
    "authentication.sso_started" => AuthenticationSSOStarted,
    "authentication.sso_succeeded" => AuthenticationSSOSucceeded,
    "authentication.sso_timed_out" => AuthenticationSSOTimedOut,
    "action.authentication.denied" => ActionAuthenticationDenied,
    "action.user_registration.denied" => ActionUserRegistrationDenied,
    "radar.challenge_created" => RadarChallengeCreated,
    "pipes.account_connection.add_failed" => PipesAccountConnectionAddFailed,
    "pipes.account_connection.connected" => PipesAccountConnectionConnected,
    "pipes.account_connection.connection_failed" => PipesAccountConnectionConnectionFailed,
    "pipes.account_connection.disconnected" => PipesAccountConnectionDisconnected,
    "pipes.account_connection.reauthorization_needed" => PipesAccountConnectionReauthorizationNeeded,
    "pipes.connected_account.connected" => PipesConnectedAccountConnected,
    "pipes.connected_account.connection_failed" => PipesConnectedAccountConnectionFailed,
    "pipes.connected_account.disconnected" => PipesConnectedAccountDisconnected,
    "pipes.connected_account.reauthorization_needed" => PipesConnectedAccountReauthorizationNeeded,
    "agent.blueprint.created" => AgentBlueprintCreated,
    "agent.blueprint.updated" => AgentBlueprintUpdated,
    "agent.blueprint.deleted" => AgentBlueprintDeleted,
    "agent.instance.created" => AgentInstanceCreated,
    "agent.instance.deleted" => AgentInstanceDeleted,
    "agent.instance.session.created" => AgentInstanceSessionCreated,
    "agent.instance.session.revoked" => AgentInstanceSessionRevoked,
    "agent.registration.created" => AgentRegistrationCreated,
    "agent.registration.deleted" => AgentRegistrationDeleted,
    "agent.registration.expired" => AgentRegistrationExpired,
    "agent.registration.refreshed" => AgentRegistrationRefreshed,
    "agent.registration.revoked" => AgentRegistrationRevoked,
    "agent.registration.organization.switched" => AgentRegistrationOrganizationSwitched,
    "agent.registration.claim.attempt.created" => AgentRegistrationClaimAttemptCreated,
    "agent.registration.claim.completed" => AgentRegistrationClaimCompleted,
    "agent.registration.credential.issued" => AgentRegistrationCredentialIssued,
    "vault.byok_key.deleted" => VaultByokKeyDeleted,
    "vault.byok_key.verification_completed" => VaultByokKeyVerificationCompleted,
    "vault.data.created" => VaultDataCreated,
    "vault.data.deleted" => VaultDataDeleted,
    "vault.data.read" => VaultDataRead,
    "vault.data.updated" => VaultDataUpdated,
    "vault.dek.decrypted" => VaultDekDecrypted,
    "vault.dek.read" => VaultDekRead,
    "vault.dek.rekeyed" => VaultDekRekeyed,
    "vault.kek.created" => VaultKekCreated,
    "vault.kek.deleted" => VaultKekDeleted,
    "vault.metadata.read" => VaultMetadataRead,
    "vault.names.listed" => VaultNamesListed,
    "resource_export.completed" => ResourceExportCompleted,
    "resource_export.created" => ResourceExportCreated,
    "resource_export.downloaded" => ResourceExportDownloaded,
    "resource_export.failed" => ResourceExportFailed,
}

/// What the fixture of a type says of an event.
fn fixture(entry: &Entry) -> Value {
    let path = format!("{}/fixtures/events/{}.json", env!("CARGO_MANIFEST_DIR"), entry.event_type);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// What the simulator says of an event, if it is of a kind.
fn payload(state: &mut State, entry: &Entry) -> Option<Value> {
    let kind = entry.kind?;
    let key = make(state, kind);
    match entry.operation {
        Some(Operation::Deleted) => drop(state.delete(kind, &key, Manner::Announced, clock())),
        _ => drop(state.tell(entry.event_type, kind, &key, clock())),
    }
    Some(state.log.records().last().unwrap().event.data.clone())
}

/// The payload with everything that WorkOS may say beside it.
fn event(event_type: &str, data: &Value) -> Value {
    json!({
        "object": "event", "id": "event_1", "event": event_type, "data": data,
        "created_at": "2026-01-15T12:00:00.000Z",
        "context": {
            "client_id": "client_1",
            "actor": {"id": "user_1", "source": "dashboard", "name": "Ada"},
            "previous_attributes": {"data": {}, "context": {}},
            "access_type": "all",
            "configured_targets": {"organizations": [], "users": []},
        },
    })
}

#[test]
fn the_sdk_reads_the_event_of_every_type() {
    let mut state = state();
    let mut unread = Vec::new();
    for entry in ENTRIES {
        for data in payload(&mut state, entry).into_iter().chain([fixture(entry)]) {
            match read_event(entry.event_type, &event(entry.event_type, &data)) {
                Some(read) => unread.extend(read.err()),
                // Older than the SDK.
                None => assert_eq!(entry.event_type, "dsync.deactivated"),
            }
        }
    }
    assert!(unread.is_empty(), "{} types:\n{}", unread.len(), unread.join("\n"));
}

#[test]
fn the_sdk_reads_what_events_say_of_a_users_api_key() {
    let mut state = state();
    let (key, _) = users_key(&mut state);
    for event_type in ["api_key.created", "api_key.updated", "api_key.revoked"] {
        state.tell(event_type, Kind::ApiKey, &key, clock());
        let data = state.log.records().last().unwrap().event.data.clone();
        assert_eq!(data["owner"]["type"], "user");
        assert_eq!(read_event(event_type, &event(event_type, &data)), Some(Ok(())));
    }
}
