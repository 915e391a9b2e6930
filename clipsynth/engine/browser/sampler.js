/** DPM-Solver++(2M) with a corrector (notebook model/samplers, where the formulas stand). */

/**
 * From noise to a mel in [-1, 1].
 * `table`: of each step the signal's and the noise's share and the network's time; `lost`: what the first noise lacks.
 * `denoise(x, time)` gives a promise of the network's answer; `tell(i, guess)` is called, and awaited, after each step.
 */
export async function dpmSolver(table, start, denoise, tell) {
  const { signal, noise, time, lost, velocity } = table;
  const level = signal.map((share, i) => Math.log(share / noise[i]));
  let [x, left, before] = [start, start, null];

  /** Step i from the one before it, towards `aim`. */
  function to(i, from, aim) {
    const kept = noise[i] / noise[i - 1];
    const gained = -signal[i] * Math.expm1(level[i - 1] - level[i]);
    return from.map((value, k) => kept * value + gained * aim[k]);
  }

  for (let i = 0; i < level.length; i++) {
    const answer = await denoise(x, time[i]);
    const data = x.map((value, k) => {
      const guess = velocity ? signal[i] * answer[k] + noise[i] * value : answer[k];
      return Math.min(1, Math.max(-1, (value - noise[i] * guess) / signal[i]));
    });
    await tell(i, data);
    if (i === 0 && lost) x = x.map((value, k) => noise[0] * value + lost * data[k]);
    if (i + 1 === level.length) return data;
    let aim = data;
    if (before) {
      const slope = (level[i + 1] - level[i]) / (level[i] - level[i - 1]) / 2;
      aim = data.map((value, k) => value + slope * (value - before[k]));
      x = to(i, left, data.map((value, k) => (value + before[k]) / 2));
    }
    [left, before] = [x, data];
    x = to(i + 1, x, aim);
  }
}
