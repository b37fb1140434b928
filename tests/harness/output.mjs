/**
 * What each server has written that has been started and not been stopped, by its address.
 *
 * @type {Map<string, () => string>}
 */
export const outputs = new Map();
