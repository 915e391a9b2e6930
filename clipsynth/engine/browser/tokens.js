/** Words as MiniCLIP reads them: checks, the prompt, byte-pair tokens (notebooks model/inputs and model/tokens). */
import { Refusal } from "./refusal.js";

const JOINERS = "\u200c\u200d"; // without a shape of their own, but they shape their neighbours
const EXAMPLE = "say what should sound, for example violin";
const MARKS = ["<start_of_text>", "<end_of_text>"];
const PIECES = /<start_of_text>|<end_of_text>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;
const ENTITIES = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&amp;": "&" };

/** The query without what cannot be seen; refuses one that holds no word. */
export function checkQuery(text) {
  const seen = [...text].filter((c) => JOINERS.includes(c) || !/\p{Cf}/u.test(c));
  const hidden = seen.find((c) => !/\s/u.test(c) && /[\p{Cc}\p{Cs}\p{Co}\p{Cn}]/u.test(c));
  if (hidden) {
    const code = hidden.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    throw new Refusal(`the query holds U+${code}, which is no character of a text: ${EXAMPLE}`);
  }
  if (!seen.some((c) => /[\p{L}\p{N}\p{So}]/u.test(c))) throw new Refusal(`the query holds no word: ${EXAMPLE}`);
  return seen.join("").trim();
}

/** The sentence around a query; `template` has {query} in it. */
export function prompt(query, template) {
  return template.split("{query}").join(query.replaceAll("_", " ").trim().split(/\s+/u).join(" "));
}

/** A visible letter for each of the 256 bytes, and the letters in the order of the vocabulary. */
function byteLetters() {
  const letters = new Map();
  const printable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  const bytes = [...Array(256).keys()];
  for (const byte of bytes.filter(printable)) letters.set(byte, String.fromCodePoint(byte));
  bytes.filter((byte) => !printable(byte)).forEach((byte, i) => letters.set(byte, String.fromCodePoint(256 + i)));
  return letters;
}

function cleaned(text) {
  let clean = text.normalize("NFC").replace(/[\u2018\u2019]/g, "'").replace(/[\u201c\u201d]/g, '"');
  for (let turn = 0; turn < 2; turn++) clean = clean.replace(/&(?:lt|gt|quot|#39|amp);/g, (found) => ENTITIES[found]);
  return clean.trim().split(/\s+/u).join(" ").toLowerCase();
}

export class Tokenizer {
  /** `merges`: pairs, most frequent first; `context`: tokens of a caption; `labels`: what MiniCLIP has learned. */
  constructor({ merges, context, labels }) {
    this.letters = byteLetters();
    const single = [...this.letters.values()];
    const symbols = [...single, ...single.map((s) => `${s}</w>`), ...merges.map((pair) => pair.join("")), ...MARKS];
    this.number = new Map(symbols.map((symbol, number) => [symbol, number]));
    this.rank = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
    this.context = context;
    this.known = new Set(labels.flatMap(wordsIn));
  }

  /** The tokens of a text, without marks. */
  encode(text) {
    return (cleaned(text).match(PIECES) ?? []).flatMap((piece) => this.#ofPiece(piece));
  }

  #ofPiece(piece) {
    if (MARKS.includes(piece)) return [this.number.get(piece)];
    const word = [...new TextEncoder().encode(piece)].map((byte) => this.letters.get(byte));
    word.push(`${word.pop()}</w>`);
    for (;;) {
      const ranks = word.slice(1).map((symbol, i) => this.rank.get(`${word[i]} ${symbol}`) ?? Infinity);
      const best = Math.min(...ranks);
      if (best === Infinity) return word.map((symbol) => this.number.get(symbol));
      for (let i = 0; i < word.length - 1; i++) {
        if (this.rank.get(`${word[i]} ${word[i + 1]}`) === best) word.splice(i, 2, word[i] + word[i + 1]);
      }
    }
  }

  /** As many tokens as the text tower reads: start, text, end, zeros. */
  tokens(text) {
    const said = this.encode(text).slice(0, this.context - 2);
    const filled = [this.number.get(MARKS[0]), ...said, this.number.get(MARKS[1])];
    return Float32Array.from({ length: this.context }, (_, i) => filled[i] ?? 0);
  }

  /** What a user should know about a query and its sentence, in lines; empty where all is well. */
  remarks(query, sentence) {
    const unknown = wordsIn(query).filter((word) => !this.known.has(word) && this.encode(word).length > 1);
    const words = [...new Set(unknown)].slice(0, 5).map((word) => word.slice(0, 20)).join(", ");
    const remarks = words ? [`MiniCLIP has not learned ${words}: the sound may be anything.`] : [];
    const long = this.encode(sentence).length > this.context - 2;
    return long ? [...remarks, "The text is longer than MiniCLIP reads: its end is left out."] : remarks;
  }
}

function wordsIn(text) {
  const found = text.toLowerCase().match(/[\p{L}\p{N}]+|[^\p{L}\p{N}_\s]/gu) ?? [];
  return found.filter((word) => /^[\p{L}\p{N}\p{So}]/u.test(word));
}
