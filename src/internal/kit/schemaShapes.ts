/**
 * What a Schema says about its messages before there are any: whether each is JSON as it is, and is read back as
 * itself. Then nothing has to be checked twice.
 */
import type { SchemaAST } from "effect"
import { maxDepth } from "../../core/Protocol.ts"
import { isScalar } from "./sameness.ts"

export interface Shape {
  /**
   * Messages are written as they are, and JSON is read back as it was written. False if anything is coded (a Date, a
   * class, a transformation), or if a union can mistake one member's message for another's.
   */
  readonly isPlain: boolean
  /** Numbers, which may be NaN or infinite. */
  readonly hasNumbers: boolean
  /** Numbers, which may be -0: JavaScript treats that as 0, even where only 0 is allowed. */
  readonly hasZeros: boolean
  /** Places for anything, or for undefined, which JSON may be unable to hold. */
  readonly hasAnything: boolean
  /** Keys unknown to the Schema: one may be `__proto__`. */
  readonly hasKeys: boolean
  /** Whether a message may nest deeper than the protocol allows. */
  readonly isDeep: boolean
}

/** A place in a Schema because of which no message can be sent. */
export interface Misfit {
  readonly path: ReadonlyArray<PropertyKey>
  readonly detail: string
}

const finiteChecks: ReadonlySet<unknown> = new Set(["effect/schema/isFinite", "effect/schema/isInt"])

export const shapeOf = (ast: SchemaAST.AST): Shape => {
  const reader = new Reader()
  reader.read(ast, 0)
  return reader
}

/** Whether the Schema allows only numbers that JSON has, as `Schema.Finite` and `Schema.Int` do. */
const isFinite = ({ checks }: SchemaAST.Number): boolean =>
  checks?.some(({ annotations }) => finiteChecks.has(annotations?.representation?.id)) === true

class Reader {
  isPlain = true
  hasNumbers = false
  hasZeros = false
  hasAnything = false
  hasKeys = false
  isDeep = false
  private readonly open = new Set<SchemaAST.AST>()
  private readonly done = new Map<SchemaAST.AST, number>()

  /** `depth` is the number of levels around it. */
  read(ast: SchemaAST.AST, depth: number): void {
    // Already read at this depth or deeper.
    if ((this.done.get(ast) ?? -1) >= depth) return
    if (this.open.has(ast)) {
      this.isDeep = true
      return
    }
    this.open.add(ast)
    this.readNew(ast, depth)
    this.open.delete(ast)
    this.done.set(ast, depth)
  }

  private readNew(ast: SchemaAST.AST, depth: number): void {
    const fields = fieldsOf(ast)
    if (fields !== undefined) return this.read(fields, depth)
    if (ast.encoding !== undefined || ast.annotations?.["parseOptions"] !== undefined) return this.coded()
    switch (ast._tag) {
      case "String":
      case "Boolean":
      case "Null":
      case "TemplateLiteral":
      case "Never":
        return
      case "Number":
        this.hasZeros = true
        if (!isFinite(ast)) this.hasNumbers = true
        return
      case "Literal":
        if (ast.literal === 0) this.hasZeros = true
        if (typeof ast.literal === "bigint") this.coded()
        return
      case "Enum": // an enum or a literal matches only its own numbers
        if (ast.enums.some(([, value]) => value === 0)) this.hasZeros = true
        return
      case "Undefined":
      case "Unknown":
      case "Any":
      case "ObjectKeyword":
        this.anything(ast._tag !== "Undefined")
        return
      case "Declaration":
        if (isJson(ast)) this.anything(true)
        else this.coded()
        return
      case "Suspend":
        this.read(ast.thunk(), depth)
        return
      case "Arrays":
        this.deeper(depth)
        for (const type of [...ast.elements, ...ast.rest]) this.read(type, depth + 1)
        return
      case "Objects":
        this.readObjects(ast, depth)
        return
      case "Union":
        if (!isClear(ast)) this.coded()
        for (const type of ast.types) this.read(type, depth)
        return
      default:
        this.coded()
    }
  }

  private readObjects(ast: SchemaAST.Objects, depth: number): void {
    this.deeper(depth)
    for (const { name, type } of ast.propertySignatures) {
      if (typeof name !== "string") this.coded()
      this.read(type, depth + 1)
    }
    for (const { parameter, type } of ast.indexSignatures) {
      this.hasKeys = true
      if (parameter._tag !== "String" || parameter.encoding !== undefined) this.coded()
      this.read(type, depth + 1)
    }
    // `Struct({})` lets through any value that is not null or undefined, as it is.
    if (ast.propertySignatures.length + ast.indexSignatures.length === 0) this.anything(true)
  }

  private deeper(depth: number): void {
    if (depth >= maxDepth) this.isDeep = true
  }

  private anything(hasInside: boolean): void {
    this.hasAnything = true
    if (!hasInside) return
    this.hasKeys = true
    this.isDeep = true
  }

  private coded(): void {
    this.isPlain = false
  }
}

/**
 * Whether a union can't mistake one member's message for another's. Without coding, that can happen only when the first
 * fitting Struct drops keys that it does not know: so at most one member may be an object, or a literal must tell all
 * members apart.
 */
const isClear = ({ types }: SchemaAST.Union): boolean => {
  const objects = types.flatMap(membersOf).filter((type) => !isScalar(type))
  if (objects.length < 2) return true
  const [first, ...others] = objects
  if (first?._tag !== "Objects") return false
  return first.propertySignatures.some(({ name }) => {
    const seen = new Set<unknown>()
    return [first, ...others].every((type) => {
      const literal = literalAt(type, name)
      if (literal === undefined || seen.has(literal)) return false
      seen.add(literal)
      return true
    })
  })
}

const membersOf = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> =>
  ast._tag === "Union" && ast.encoding === undefined ? ast.types.flatMap(membersOf) : [fieldsOf(ast) ?? ast]

/** The Struct that a `Schema.Class` is coded as: the class is built from it, whatever else the class does. */
const fieldsOf = (ast: SchemaAST.AST): SchemaAST.AST | undefined => {
  if (ast._tag !== "Declaration" || ast.annotations?.["~constructor"] === undefined) return undefined
  const [link, ...others] = ast.encoding ?? []
  return others.length === 0 && link?.to._tag === "Objects" ? link.to : undefined
}

/** The one value that this property must have. */
const literalAt = (ast: SchemaAST.AST, name: PropertyKey): unknown => {
  if (ast._tag !== "Objects" || ast.encoding !== undefined) return undefined
  const type = ast.propertySignatures.find((property) => property.name === name)?.type
  return type?._tag === "Literal" && type.context?.isOptional !== true ? type.literal : undefined
}

const isJson = (ast: SchemaAST.Declaration): boolean => {
  const representation: unknown = ast.annotations?.["representation"]
  return typeof representation === "object" && representation !== null && "id" in representation &&
    (representation.id === "effect/schema/Json" || representation.id === "effect/schema/MutableJson")
}

/** What rules a Schema out for a contract: symbol keys and `__proto__`, on its decoded or its coded side. */
export const misfitOf = (ast: SchemaAST.AST): Misfit | undefined => {
  const seen = new Set<SchemaAST.AST>()
  const visit = (ast: SchemaAST.AST): Misfit | undefined => {
    if (seen.has(ast)) return undefined
    seen.add(ast)
    for (const link of ast.encoding ?? []) {
      const misfit = visit(link.to)
      if (misfit !== undefined) return misfit
    }
    switch (ast._tag) {
      case "Suspend":
        return visit(ast.thunk())
      case "Union":
        return first(ast.types, visit)
      case "Declaration":
        return first(ast.typeParameters, visit)
      case "Arrays":
        return within("*", first([...ast.elements, ...ast.rest], visit))
      case "Objects":
        return first(ast.propertySignatures, ({ name, type }) => within(name, keyFault(ast, name) ?? visit(type))) ??
          within("*", first(ast.indexSignatures, ({ type }) => visit(type)))
      default:
        return undefined
    }
  }
  return visit(ast)
}

const keyFault = (ast: SchemaAST.Objects, name: PropertyKey): Misfit | undefined => {
  // A coded type's keys are not sent: its coded form is checked instead.
  if (ast.encoding !== undefined) return undefined
  if (name === "__proto__") return { path: [], detail: "no peer takes the key __proto__" }
  return typeof name === "symbol" ? { path: [], detail: "JSON has no symbols for keys" } : undefined
}

const first = <A>(parts: ReadonlyArray<A>, visit: (part: A) => Misfit | undefined): Misfit | undefined => {
  for (const part of parts) {
    const misfit = visit(part)
    if (misfit !== undefined) return misfit
  }
  return undefined
}

const within = (key: PropertyKey, misfit: Misfit | undefined): Misfit | undefined =>
  misfit && { ...misfit, path: [key, ...misfit.path] }
