// A profile being edited: wishes with weights, and where it stands against the stored one.

export const MAX_WISHES = 8; // of the generator
const SLIDER_MAX = 2;

let lastId = 0;

export const newWish = (text = "", weight = 1) => ({ id: ++lastId, text, weight });

export const newProfile = (wishes = []) => ({ userId: "", wishes, beta: null, stored: null });

/** Return the editor's profile for a stored one. */
export function fromStored(stored) {
  const wishes = stored.preferences.map(({ text, weight }) => newWish(text, weight));
  return { userId: stored.user_id, wishes, beta: stored.beta, stored };
}

/** Return the wishes that are sent: those with words. */
export const preferences = (profile) =>
  profile.wishes
    .map(({ text, weight }) => ({ text: text.trim(), weight }))
    .filter(({ text }) => text !== "");

export const totalWeight = (profile) =>
  preferences(profile).reduce((sum, { weight }) => sum + weight, 0);

/** Return the beta by which all wishes together guide with strength 1, to a hundredth. */
export const sharedBeta = (profile) => Math.round(100 / totalWeight(profile)) / 100;

export function isEdited({ stored, ...profile }) {
  if (stored === null) return true;
  const kept = stored.preferences.map(({ text, weight }) => ({ text, weight }));
  return (
    profile.userId !== stored.user_id ||
    profile.beta !== stored.beta ||
    JSON.stringify(preferences(profile)) !== JSON.stringify(kept)
  );
}

export function title(profile, fallback) {
  if (!profile.userId) return fallback;
  if (profile.stored === null) return profile.userId;
  return isEdited(profile) ? `${profile.userId}, edited` : profile.userId;
}

/** Return the part of a request that says for whom it is; null if there is nobody. */
export function guidance(profile) {
  if (!isEdited(profile)) return { user_id: profile.userId };
  const wishes = preferences(profile);
  if (wishes.length === 0) return null;
  return { preferences: wishes, ...(profile.beta === null ? {} : { beta: profile.beta }) };
}

/** Return what a slider between two opposite wishes shows: negative is the left one. */
export function axisValue(profile, axis) {
  const found = axisWish(profile, axis);
  if (!found) return 0;
  return found.text === axis.poles[0]?.wish ? -found.weight : found.weight;
}

export const axisMax = (profile, axis) => Math.max(SLIDER_MAX, Math.abs(axisValue(profile, axis)));

/** Return the profile with a slider moved; the wish keeps its place among the others. */
export function withAxis(profile, axis, value) {
  const found = axisWish(profile, axis);
  const text = axis.poles[value < 0 ? 0 : 1].wish;
  if (value === 0) return { ...profile, wishes: profile.wishes.filter((each) => each !== found) };
  const moved = { ...(found ?? newWish()), text, weight: Math.abs(value) };
  const wishes = found
    ? profile.wishes.map((each) => (each === found ? moved : each))
    : [...profile.wishes, moved];
  return { ...profile, wishes };
}

/** Return the wishes that no slider shows. */
export function ownWishes(profile, axes) {
  const shown = new Set(axes.map((axis) => axisWish(profile, axis)));
  return profile.wishes.filter((each) => !shown.has(each));
}

const axisWish = (profile, axis) =>
  profile.wishes.find(({ text }) => axis.poles.some((pole) => pole?.wish === text));
