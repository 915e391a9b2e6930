/** What the user can put right: its message is one line that is shown as it is. */
export class Refusal extends Error {}

/** Thrown where work stops because the user has cancelled it. */
export class Cancelled extends Error {}
